package test

import "testing"

// TestGroupLedger: what the ledger finds wrong is what is wrong, by deliveries that are
// known.
func TestGroupLedger(t *testing.T) {
	at := line{"p", "k"}
	for name, c := range map[string]struct {
		does              func(deliver func(reader string, seq int, redelivered bool), l *ledger)
		repeated          int
		unflagged, early  int
		disorder, missing int
	}{
		"in order": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			deliver("a", 1, false)
			deliver("b", 2, false)
		}},
		"a gap": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			deliver("a", 2, false)
		}, disorder: 1, missing: 1},
		"changed places": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			deliver("a", 2, false)
			deliver("a", 1, false)
		}, disorder: 2},
		"early": {does: func(deliver func(string, int, bool), l *ledger) {
			l.deliver("a", noteBody(at, 0), false)
			deliver("b", 1, false)
			deliver("b", 2, false)
			l.settles("a", noteBody(at, 0))
		}, early: 2},
		"without acks, read late": {does: func(deliver func(string, int, bool), l *ledger) {
			l.noAck = true
			deliver("a", 0, false)
			l.deliver("b", noteBody(at, 2), false)
			deliver("a", 1, false)
			l.settles("b", noteBody(at, 2))
		}},
		"without acks, a gap": {does: func(deliver func(string, int, bool), l *ledger) {
			l.noAck = true
			deliver("a", 0, false)
			deliver("a", 2, false)
			deliver("a", 1, false)
		}, disorder: 2},
		"not settled": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			deliver("a", 1, false)
			l.deliver("a", noteBody(at, 2), false)
		}, missing: 1},
		"twice": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			deliver("b", 0, false)
			deliver("b", 1, false)
			deliver("b", 2, false)
		}, repeated: 1, unflagged: 1},
		"again after a death": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			l.deliver("a", noteBody(at, 1), false)
			l.dies("a")
			l.deliver("a", noteBody(at, 2), false) // tells nothing
			deliver("b", 1, true)
			deliver("b", 2, false)
		}, repeated: 1},
		"again in another order": {does: func(deliver func(string, int, bool), l *ledger) {
			deliver("a", 0, false)
			deliver("a", 1, false)
			deliver("a", 2, false)
			deliver("b", 2, true)
			deliver("b", 1, true)
		}, repeated: 2, disorder: 1},
	} {
		l := newLedger(map[string]string{"k": "shard"})
		for seq := range 3 {
			l.sends(at, seq, false)
			l.stored(at, seq)
		}
		c.does(func(reader string, seq int, redelivered bool) {
			l.deliver(reader, noteBody(at, seq), redelivered)
			l.settles(reader, noteBody(at, seq))
		}, l)
		if l.repeated != c.repeated || l.unflagged != c.unflagged || l.early != c.early || l.disorder != c.disorder || len(l.missing()) != c.missing {
			t.Errorf("%s: %d again, %d unflagged, %d early, %d out of order, missing %q; want %+v", name, l.repeated, l.unflagged, l.early, l.disorder, l.missing(), c)
		}
	}
}

// TestGroupFewest: how many shards have to move when one of a group comes or goes.
func TestGroupFewest(t *testing.T) {
	before := map[string]string{"1": "a", "2": "a", "3": "b", "4": "b", "5": "c", "6": "c"}
	for want, after := range map[int]map[string][]string{
		0: {"1": {"a"}, "2": {"a"}, "3": {"b"}, "4": {"b"}, "5": {"c"}, "6": {"c"}},
		1: {"1": {"d"}, "2": {"a"}, "3": {"b"}, "4": {"b"}, "5": {"c"}, "6": {"c"}},
		2: {"1": {"b"}, "2": {"c"}, "3": {"b"}, "4": {"b"}, "5": {"c"}, "6": {"c"}},
		3: {"1": {"a"}, "2": {"d"}, "3": {"b"}, "4": {"e"}, "5": {"c"}, "6": {"f"}},
	} {
		if got := fewest(before, after); got != want {
			t.Errorf("%d shards have to move to %v, want %d", got, after, want)
		}
	}
}
