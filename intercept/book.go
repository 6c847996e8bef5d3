package intercept

import (
	"cmp"
	"slices"
	"time"
)

// book is one leg's side of the ledger. Its numbers go on when the leg is opened anew.
type book struct {
	sent    uint64       // the number of the last publish
	base    uint64       // what it was when the leg was opened: the broker counts from there
	entries ring[entry]  // of the last publishes, from the first one on that is not settled
	kept    ring[copied] // what is kept of them; empty until something is
	back    []back       // what has come back here, the last of them not settled
	lost    uint64       // acks up to here are nacks: one of these messages is not stored

	open  int       // publishes to streams that the broker has not settled
	moved bool      // it has settled some since the last tick
	since time.Time // the last tick when it had, or none was open
	ages  []age

	begun  bool // the last publish is one that is not whole yet
	gaveUp bool // some were given up that the broker may still settle
}

// age tells how many publishes there were at a tick.
type age struct {
	sent uint64
	at   time.Time
}

// back is a message that came back. Marks never fall from one to the next.
type back struct {
	id      uint64
	mark    uint64 // the number of the last publish before it came
	settled bool
}

// entry is one publish on a leg.
type entry struct {
	tag   uint64 // the client's, or the id of what had come back
	key   uint64 // the hash of the routing key
	queue uint32 // the shard, by its ID; 0 if it is for no stream
	flags entryFlags
}

type entryFlags uint8

const (
	entryAgain     entryFlags = 1 << iota // it had come back and is sent again
	entryMandatory                        // the client wants to see it if it comes back
	entryHeld                             // it was acked, and that is held
	entryDone                             // it is settled
)

// The highest bits of the flags count how often a message has come back, up to maxBack.
const (
	backShift = 6
	maxBack   = 3
)

func (f entryFlags) timesBack() int { return int(f >> backShift) }

// backOnceMore are the flags of a message that has come back once more than one with f.
func (f entryFlags) backOnceMore() entryFlags {
	return f&(1<<backShift-1) | entryFlags(min(f.timesBack()+1, maxBack))<<backShift
}

func (g *book) push(e entry) {
	g.sent++
	g.entries.push(e)
	if e.queue != 0 {
		g.open++
	}
	if g.kept.n > 0 {
		g.kept.push(copied{})
	}
}

// first is the number of the first entry.
func (g *book) first() uint64 { return g.sent + 1 - uint64(g.entries.n) }

// at is the entry of a number; nil if it is settled and gone, or was never sent.
func (g *book) at(seq uint64) *entry {
	if first := g.first(); seq >= first && seq <= g.sent {
		return g.entries.at(int(seq - first))
	}
	return nil
}

// keptAt is the place for the copy of a number; nil if nothing is kept, or it is gone.
func (g *book) keptAt(seq uint64) *copied {
	if first := g.first(); g.kept.n > 0 && seq >= first && seq <= g.sent {
		return g.kept.at(int(seq - first))
	}
	return nil
}

// held is up to where acks are held.
func (g *book) held() uint64 {
	if n := len(g.back); n > 0 {
		return g.back[n-1].mark
	}
	return 0
}

func (g *book) find(id uint64) *back {
	i, found := slices.BinarySearchFunc(g.back, id, func(b back, id uint64) int { return cmp.Compare(b.id, id) })
	if !found {
		return nil
	}
	return &g.back[i]
}

// abandon gives up what a leg's broker has not settled of its first publishes to streams.
// What becomes of them there nobody knows: it counts as nacked.
func (l *ledger) abandon(leg int, upTo uint64) {
	g := &l.books[leg]
	if g.begun {
		upTo = min(upTo, g.sent-1)
	}
	g.gaveUp = g.gaveUp || g.open > 0
	for seq := g.first(); seq <= min(upTo, g.sent); seq++ {
		e := g.at(seq)
		if e == nil || e.queue == 0 || e.flags&(entryDone|entryHeld) != 0 {
			continue
		}
		g.open--
		l.probed(e.queue, false)
		if !l.retry(g, seq, e) {
			l.forget(g, seq)
			l.finish(e, false)
		}
	}
	l.trim(g)
}

// begun says that only the header of a leg's last publish is there, whole that the rest is
// too: until then no broker can settle it.
func (l *ledger) begun(leg int) { l.books[leg].begun = true }
func (l *ledger) whole(leg int) { l.books[leg].begun = false }

// gaveUp tells whether publishes were given up that a leg's broker may still send back.
func (l *ledger) gaveUp(leg int) bool { return l.books[leg].gaveUp }

// busy tells whether anything on a leg is not settled.
func (l *ledger) busy(leg int) bool {
	return leg < len(l.books) && (l.books[leg].entries.n > 0 || len(l.books[leg].back) > 0)
}

// unsettled tells whether the broker of a leg has not settled a publish to a stream of its first
// ones.
func (l *ledger) unsettled(leg int, upTo uint64) bool {
	g := &l.books[leg]
	for seq := g.first(); seq <= min(upTo, g.sent); seq++ {
		if e := g.at(seq); e.queue != 0 && e.flags&(entryDone|entryHeld) == 0 {
			return true
		}
	}
	return false
}

// begins says that a leg is opened: its broker counts from here on.
func (l *ledger) begins(leg int) {
	for len(l.books) <= leg {
		l.books = append(l.books, book{})
	}
	g := &l.books[leg]
	g.base, g.moved = g.sent, true
}

// late gives up what is open for longer than the limit.
func (l *ledger) late(leg int, now time.Time, limit time.Duration) {
	g := &l.books[leg]
	if n := len(g.ages); g.open > 0 && (n == 0 || g.ages[n-1].sent < g.sent) {
		g.ages = append(g.ages, age{g.sent, now})
	}
	old := 0
	for old < len(g.ages) && now.Sub(g.ages[old].at) > limit {
		old++
	}
	if old > 0 {
		upTo := g.ages[old-1].sent
		g.ages = slices.Delete(g.ages, 0, old)
		l.abandon(leg, upTo)
	}
}

// rests is for how long a leg's broker has settled nothing of what is open. The clock may
// have stood still since the tick before.
func (l *ledger) rests(leg int, before, now time.Time, stands bool) time.Duration {
	g := &l.books[leg]
	switch {
	case g.moved || g.open == 0 || g.open == 1 && g.begun || g.since.IsZero():
		g.since = now
	case stands:
		g.since = g.since.Add(now.Sub(before))
	}
	g.moved = false
	return now.Sub(g.since)
}
