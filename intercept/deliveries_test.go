package intercept

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// naiveDeliveries is a map of tags in the plainest form: a list that one looks through.
type naiveDeliveries struct {
	last uint64
	open []delivery
}

func (n *naiveDeliveries) find(tag uint64) int {
	return slices.IndexFunc(n.open, func(e delivery) bool { return e.tag == tag })
}

// TestDeliveries: deliveries are what a plain list would be, whatever order the client
// settles in, and the tags rise by one.
func TestDeliveries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]uint64{0, 1, 1000}).Draw(t, "base")
		d, n := deliveries{base: base, last: base}, naiveDeliveries{last: base}
		from := []*reader{nil, {number: 1}, {number: 2}, {number: 3}}
		ups := make([]uint64, len(from))
		t.Repeat(map[string]func(*rapid.T){
			"comes": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 1, 5, 100}).Draw(t, "messages") {
					n.last++
					if rapid.IntRange(0, 9).Draw(t, "not to be settled") == 0 {
						if tag := d.next(); tag != n.last {
							t.Fatalf("tag %d, want %d", tag, n.last)
						}
						continue
					}
					i := rapid.IntRange(0, len(from)-1).Draw(t, "from")
					ups[i]++
					n.open = append(n.open, delivery{tag: n.last, up: ups[i], from: from[i]})
					if tag := d.add(ups[i], from[i]); tag != n.last {
						t.Fatalf("tag %d, want %d", tag, n.last)
					}
				}
			},
			"settle": func(t *rapid.T) {
				tag := n.draw(t)
				at, ok := d.find(tag)
				want := n.find(tag)
				if ok != (want >= 0) {
					t.Fatalf("tag %d is found: %v", tag, ok)
				}
				if !ok {
					return
				}
				if e := d.open[at]; e != n.open[want] {
					t.Fatalf("tag %d leads to %+v, want %+v", tag, e, n.open[want])
				}
				if rapid.Bool().Draw(t, "multiple") {
					d.settleTo(at)
					n.open = slices.Delete(n.open, 0, want+1)
				} else {
					d.settle(at)
					n.open = slices.Delete(n.open, want, want+1)
				}
			},
			"": func(t *rapid.T) { n.same(t, &d) },
		})
	})
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

func (n *naiveDeliveries) same(t *rapid.T, d *deliveries) {
	if got := slices.Collect(d.unsettled); !slices.Equal(got, n.open) {
		t.Fatalf("not settled are\n%+v, want\n%+v", got, n.open)
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
				d.add(1, nil)
			}
			const flying = 50
			for i := range uint64(100_000) {
				tag := d.add(i, nil)
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
