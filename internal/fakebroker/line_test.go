package fakebroker

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLine: whatever goes in and comes back, the first is the one that is before all
// others.
func TestLine(t *testing.T) {
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 0))
		var l line
		var want, out []*entry
		for seq := range uint64(500) {
			switch n := random.IntN(10); {
			case n < 5:
				e := &entry{message: &message{body: make([]byte, random.IntN(9))}, seq: seq, rank: int(seed) % 3 * random.IntN(3)}
				l.insert(e)
				want = append(want, e)
			case n < 8 && l.len() > 0:
				out = append(out, l.pop())
			case len(out) > 0:
				at := random.IntN(len(out))
				l.insert(out[at])
				want = append(want, out[at])
				out = slices.Delete(out, at, at+1)
			}
			slices.SortFunc(want, func(a, b *entry) int {
				if a.before(b) {
					return -1
				}
				return 1
			})
			want = slices.DeleteFunc(want, func(e *entry) bool { return slices.Contains(out, e) })
			checkLine(t, &l, want)
		}
	}
}

func checkLine(t *testing.T, l *line, want []*entry) {
	t.Helper()
	bytes := 0
	for _, e := range want {
		bytes += len(e.body)
	}
	if !slices.Equal(l.entries[l.head:], want) || l.bytes != bytes {
		t.Fatalf("%d entries with %d octets, want %d with %d, or they are in another order", l.len(), l.bytes, len(want), bytes)
	}
}
