package intercept

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveDeliveries is what deliveries are in the plainest form: a list that one looks through.
type naiveDeliveries struct {
	last    uint64
	open    []naiveDelivery
	sources []*reader // that live; the first is the home leg
	ups     uint64
}

type naiveDelivery struct {
	tag, up uint64
	from    *reader
}

func (n *naiveDeliveries) find(tag uint64) int {
	return slices.IndexFunc(n.open, func(e naiveDelivery) bool { return e.tag == tag })
}

// settle takes out some, and has their readers know it.
func (n *naiveDeliveries) settle(from, to int) {
	for _, e := range n.open[from:to] {
		if e.from != nil {
			e.from.unacked--
		}
	}
	n.open = slices.Delete(n.open, from, to)
}

// TestDeliveries: deliveries are what a plain list would be, whatever order the client
// settles in, and the tags rise by one.
func TestDeliveries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]uint64{0, 1, 1000}).Draw(t, "base")
		d, n := deliveries{base: base, last: base}, naiveDeliveries{last: base, sources: []*reader{nil}}
		t.Repeat(map[string]func(*rapid.T){
			"reader begins": func(*rapid.T) {
				r := &reader{stage: readerReading}
				r.source = d.source(r)
				n.sources = append(n.sources, r)
			},
			"reader ends": func(t *rapid.T) {
				i := rapid.IntRange(0, len(n.sources)-1).Draw(t, "which")
				if i > 0 {
					n.sources[i].stage = readerGone
					n.sources = slices.Delete(n.sources, i, i+1)
				}
			},
			"home recovers": func(*rapid.T) {
				d.forget(0)
				n.open = slices.DeleteFunc(n.open, func(e naiveDelivery) bool { return e.from == nil })
			},
			"comes":  func(t *rapid.T) { n.comes(t, &d) },
			"settle": func(t *rapid.T) { n.settles(t, &d) },
			"":       func(t *rapid.T) { n.same(t, &d) },
		})
	})
}

func (n *naiveDeliveries) comes(t *rapid.T, d *deliveries) {
	for range rapid.SampledFrom([]int{1, 1, 5, 100}).Draw(t, "messages") {
		n.last++
		if rapid.IntRange(0, 9).Draw(t, "not to be settled") == 0 {
			if tag := d.next(); tag != n.last {
				t.Fatalf("tag %d, want %d", tag, n.last)
			}
			continue
		}
		n.ups++
		source, from := uint32(0), n.sources[rapid.IntRange(0, len(n.sources)-1).Draw(t, "from")]
		if from != nil {
			source = from.source
			from.unacked++
		}
		n.open = append(n.open, naiveDelivery{n.last, n.ups, from})
		if tag := d.add(n.ups, source); tag != n.last {
			t.Fatalf("tag %d, want %d", tag, n.last)
		}
	}
}

func (n *naiveDeliveries) settles(t *rapid.T, d *deliveries) {
	tag := n.draw(t)
	at, ok := d.find(tag)
	want := n.find(tag)
	if ok != (want >= 0) {
		t.Fatalf("tag %d is found: %v", tag, ok)
	}
	if !ok {
		return
	}
	if e := d.open[at]; e.tag != tag {
		t.Fatalf("tag %d leads to %d", tag, e.tag)
	}
	if rapid.Bool().Draw(t, "multiple") {
		d.settleTo(at)
		n.settle(0, want+1)
	} else {
		d.settle(at)
		n.settle(want, want+1)
	}
}

// draw gives a tag: mostly one that is not settled, from either end, sometimes any.
func (n *naiveDeliveries) draw(t *rapid.T) uint64 {
	if len(n.open) == 0 || rapid.IntRange(0, 4).Draw(t, "any tag") == 0 {
		return rapid.Uint64Range(0, n.last+1).Draw(t, "tag")
	}
	i := rapid.IntRange(0, min(len(n.open)-1, 3)).Draw(t, "which")
	if rapid.Bool().Draw(t, "last") {
		i = len(n.open) - 1 - i
	}
	return n.open[i].tag
}

// same compares the two. What is settled takes no more places than what is not, but for a few.
func (n *naiveDeliveries) same(t *rapid.T, d *deliveries) {
	var got []naiveDelivery
	for e := range d.unsettled {
		from := (*reader)(nil)
		if e.from > 0 {
			from = d.sources[e.from]
		}
		got = append(got, naiveDelivery{e.tag, e.up, from})
	}
	if !slices.Equal(got, n.open) {
		t.Fatalf("not settled are\n%v, want\n%v", got, n.open)
	}
	if d.count() != len(n.open) || d.last != n.last {
		t.Fatalf("%d are counted and the last tag is %d, want %d and %d", d.count(), d.last, len(n.open), n.last)
	}
	if most := 2*len(n.open) + 2*65; len(d.open)-d.head > most {
		t.Fatalf("%d places for %d deliveries", len(d.open)-d.head, len(n.open))
	}
}

// TestDeliveriesMemory: one old delivery that stays does not keep the places of those that
// came behind it and are settled, nor do many in flight that are settled in order.
func TestDeliveriesMemory(t *testing.T) {
	for name, stays := range map[string]int{"nothing stays": 0, "the first stays": 1} {
		t.Run(name, func(t *testing.T) {
			var d deliveries
			for range stays {
				d.add(1, 0)
			}
			const flying = 50
			for i := range uint64(100_000) {
				tag := d.add(i, 0)
				if i < flying {
					continue
				}
				at, ok := d.find(tag - flying)
				if !ok {
					t.Fatalf("tag %d is not found", tag-flying)
				}
				d.settle(at)
			}
			if d.count() != stays+flying || cap(d.open) > 1024 {
				t.Errorf("%d deliveries take %d places", d.count(), cap(d.open))
			}
		})
	}
}

// TestDeliverySources: readers that come and go take as many places as there were at a time,
// those included whose messages the client has.
func TestDeliverySources(t *testing.T) {
	var d deliveries
	kept := &reader{}
	kept.source = d.source(kept)
	d.add(1, kept.source)
	kept.unacked, kept.stage = 1, readerGone
	for range 100 {
		r := &reader{}
		r.source = d.source(r)
		if r.source == 0 || r.source == kept.source {
			t.Fatalf("a reader has place %d", r.source)
		}
		r.stage = readerGone
	}
	if len(d.sources) != 3 || d.sources[kept.source] != kept {
		t.Errorf("%d places", len(d.sources))
	}
}
