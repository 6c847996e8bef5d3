package intercept

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naive is a broker with several channels and the truth about every message: where
// copies of it are, and whether one is stored. What it sends is what RabbitMQ might:
// a return before its ack, acks single or for everything up to one.
type naive struct {
	t      *rapid.T
	l      *ledger
	stored map[int]bool // messages, by the client's tag
	told   map[int]int  // how often the client was told of a tag
	legs   []*naiveLeg
	back   []cameBackAs   // that are not sent again yet
	ids    map[uint64]int // messages, by the id that they came back with
	copies copies
	nacks  int // of the broker's, and given up
	sent   int
}

type cameBackAs struct {
	id      uint64
	message int
}

type naiveLeg struct {
	messages []int // by number - 1
	routed   int   // how many the broker has looked at
	ready    []int // numbers that it may ack or nack
	bad      map[int]bool
}

func (n *naive) publish(leg int) {
	n.sent++
	n.legs[leg].messages = append(n.legs[leg].messages, n.sent)
	n.l.publish(leg, 7, 1, n.sent%2 == 0)
	n.keep(leg)
}

// keep keeps a copy of what was sent last, or does not.
func (n *naive) keep(leg int) {
	if rapid.Bool().Draw(n.t, "keep") {
		k, _ := n.copies.begin([]byte("copy"), 4)
		n.l.keep(leg, k)
	}
}

// retry sends what was nacked again, or drops it.
func (n *naive) retry() {
	retries := n.l.retries
	n.l.retries = nil
	for _, m := range retries {
		message := int(m.tag)
		if m.flags&entryAgain != 0 {
			message = n.ids[m.tag]
		}
		if rapid.IntRange(0, 4).Draw(n.t, "drop") == 0 {
			n.copies.end(&m.copied)
			n.l.drop(m.entry)
			continue
		}
		leg := rapid.IntRange(0, len(n.legs)-1).Draw(n.t, "to")
		n.legs[leg].messages = append(n.legs[leg].messages, message)
		n.l.sendAgain(leg, m.entry)
		n.l.keep(leg, m.copied)
	}
}

// route has the broker take the next message of a leg: it stores it, sends it back,
// or loses it.
func (n *naive) route(leg int) {
	g := n.legs[leg]
	m := g.messages[g.routed]
	g.routed++
	switch rapid.IntRange(0, 9).Draw(n.t, "fate") {
	case 0, 1, 2:
		id := n.l.cameBack(leg)
		n.ids[id] = m
		n.back = append(n.back, cameBackAs{id, m})
	case 3:
		g.bad[g.routed] = true
		n.nacks++
	default:
		n.stored[m] = true
	}
	g.ready = append(g.ready, g.routed)
}

// confirm sends an ack or a nack.
func (n *naive) confirm(leg int) {
	g := n.legs[leg]
	i := rapid.IntRange(0, len(g.ready)-1).Draw(n.t, "which")
	seq := g.ready[i]
	below := func(s int) bool { return s <= seq && g.bad[s] == g.bad[seq] }
	whole := !slices.ContainsFunc(g.ready, func(s int) bool { return s <= seq && g.bad[s] != g.bad[seq] }) && seq <= g.routed
	if whole && rapid.Bool().Draw(n.t, "multiple") {
		n.l.settle(leg, uint64(seq), true, !g.bad[seq])
		g.ready = slices.DeleteFunc(g.ready, below)
	} else {
		n.l.settle(leg, uint64(seq), false, !g.bad[seq])
		g.ready = slices.Delete(g.ready, i, i+1)
	}
	n.retry()
	n.tell()
}

// again sends a message that came back to a leg, or gives it up.
func (n *naive) again() {
	i := rapid.IntRange(0, len(n.back)-1).Draw(n.t, "again")
	b := n.back[i]
	n.back = slices.Delete(n.back, i, i+1)
	if rapid.IntRange(0, 9).Draw(n.t, "give up") == 0 {
		n.nacks++
		n.l.giveUp(b.id)
		n.tell()
		return
	}
	leg := rapid.IntRange(0, len(n.legs)-1).Draw(n.t, "to")
	n.legs[leg].messages = append(n.legs[leg].messages, b.message)
	n.l.sendAgain(leg, entry{tag: b.id, key: 7, queue: 1, flags: entryAgain})
	n.keep(leg)
}

// tell takes what the client is told: of every tag once, and of one that is not stored
// never an ack.
func (n *naive) tell() {
	news := n.l.tell()
	for _, tag := range news.nacks {
		if n.once(int(tag)); n.nacks == 0 {
			n.t.Fatalf("tag %d is nacked, and the broker has nacked nothing", tag)
		}
	}
	for _, tag := range news.acks {
		n.ack(int(tag))
	}
	for tag := 1; tag <= int(news.upTo); tag++ {
		if n.told[tag] == 0 {
			n.ack(tag)
		}
	}
}

func (n *naive) ack(tag int) {
	if n.once(tag); !n.stored[tag] {
		n.t.Fatalf("tag %d is acked, and its message is not stored", tag)
	}
}

func (n *naive) once(tag int) {
	if n.told[tag]++; n.told[tag] > 1 || tag < 1 || tag > n.sent {
		n.t.Fatalf("the client is told of tag %d for the %d. time, of %d that it sent", tag, n.told[tag], n.sent)
	}
}

func (n *naive) steps() (steps []string) {
	for i, g := range n.legs {
		leg := string(rune('0' + i))
		if g.routed < len(g.messages) {
			steps = append(steps, "route "+leg)
		}
		if len(g.ready) > 0 {
			steps = append(steps, "confirm "+leg)
		}
	}
	if len(n.back) > 0 {
		steps = append(steps, "again")
	}
	return steps
}

func (n *naive) step(s string) {
	leg := int(s[len(s)-1] - '0')
	switch s[0] {
	case 'p':
		n.publish(leg)
	case 'r':
		n.route(leg)
	case 'c':
		n.confirm(leg)
	case 'a':
		n.again()
	}
}

// TestLedger: whatever comes back, is sent again, given up, acked and nacked, in any
// order and on any leg: the client is told of each publish once, and of none that is
// stored nowhere that it is. Without a nack it is told of all that they are stored.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &naive{t: t, stored: map[int]bool{}, told: map[int]int{}, ids: map[uint64]int{}}
		before := confirms{on: true}
		for range rapid.IntRange(0, 5).Draw(t, "before") {
			before.publish()
		}
		n.l = newLedger(before, &n.copies, nil)
		n.sent = int(before.sent)
		for range rapid.IntRange(1, 3).Draw(t, "legs") {
			n.legs = append(n.legs, &naiveLeg{bad: map[int]bool{}})
		}
		n.l.books = append(n.l.books, make([]book, len(n.legs)-1)...)
		for tag := range n.sent {
			n.legs[0].messages = append(n.legs[0].messages, tag+1)
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			steps := append(n.steps(), "publish 0", "publish "+string(rune('0'+len(n.legs)-1)))
			n.step(rapid.SampledFrom(steps).Draw(t, "step"))
		}
		for steps := n.steps(); len(steps) > 0; steps = n.steps() {
			n.step(rapid.SampledFrom(steps).Draw(t, "step"))
		}
		for tag := 1; tag <= n.sent; tag++ {
			if n.told[tag] != 1 {
				t.Fatalf("the client was told of tag %d %d times", tag, n.told[tag])
			}
		}
		if n.l.outstanding() {
			t.Fatal("something is outstanding")
		}
		if n.copies.size > 0 {
			t.Fatalf("%d octets of copies are kept", n.copies.size)
		}
		for i, g := range n.l.books {
			if g.entries.n > 0 || len(g.back) > 0 {
				t.Fatalf("leg %d keeps %d entries and %d that came back", i, g.entries.n, len(g.back))
			}
		}
	})
}
