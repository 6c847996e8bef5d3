package intercept

import (
	"testing"

	"pgregory.net/rapid"
)

// openTags is what confirms is in the simplest words: the set of tags that are
// sent and not settled.
type openTags struct {
	sent uint64
	open map[uint64]bool
}

func (m *openTags) publish() {
	m.sent++
	m.open[m.sent] = true
}

// settle tells how many tags it settled. Tag 0 with multiple means all.
func (m *openTags) settle(tag uint64, multiple bool) (n uint64) {
	if tag > m.sent {
		return 0
	}
	for t := range m.open {
		if t == tag || multiple && (t < tag || tag == 0) {
			delete(m.open, t)
			n++
		}
	}
	return n
}

func (m *openTags) lowest() uint64 {
	low := m.sent + 1
	for t := range m.open {
		low = min(low, t)
	}
	return low
}

// TestConfirmsAgainstSet: whatever order the broker settles in, confirms knows
// how many were settled and whether some are due, and its memory is bounded by
// the window from the oldest that is due to the newest.
func TestConfirmsAgainstSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, m := confirms{on: true}, openTags{open: map[uint64]bool{}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "publish") {
				for range rapid.IntRange(1, 150).Draw(t, "messages") {
					c.publish()
					m.publish()
				}
			} else {
				// Tags around the oldest that is due are the interesting ones, and
				// so are those at the edges of a word; some were never sent.
				tag := rapid.OneOf(
					rapid.Uint64Range(0, m.sent+3),
					rapid.Uint64Range(max(m.lowest(), 3)-3, m.lowest()+3),
					rapid.Map(rapid.Uint64Range(0, m.sent/64+1), func(w uint64) uint64 { return w * 64 }),
				).Draw(t, "tag")
				multiple := rapid.Bool().Draw(t, "multiple")
				if got, want := c.settle(tag, multiple), m.settle(tag, multiple); got != want {
					t.Fatalf("settle(%d, %v) settled %d, want %d", tag, multiple, got, want)
				}
			}
			agree(t, &c, &m)
		}
	})
}

func agree(t *rapid.T, c *confirms, m *openTags) {
	if got, want := c.outstanding(), len(m.open) > 0; got != want {
		t.Fatalf("outstanding is %v with %d due", got, len(m.open))
	}
	if got, want := c.low+1, m.lowest(); got != want {
		t.Fatalf("the lowest that is due is %d, want %d", got, want)
	}
	if got, want := c.low+c.singly, m.sent-uint64(len(m.open)); got != want {
		t.Fatalf("%d are settled, want %d", got, want)
	}
	// The window, and what is left of the words at both of its ends.
	if window := m.sent - c.low; uint64(len(c.beyond))*64 > window+2*64 {
		t.Fatalf("%d words for a window of %d tags", len(c.beyond), window)
	}
}

// TestConfirmsBeforeSelect: publishes that go up before confirm.select have no tag.
func TestConfirmsBeforeSelect(t *testing.T) {
	var c confirms
	c.publish()
	if c.outstanding() || c.sent != 0 {
		t.Errorf("a publish outside of confirm mode is due: %+v", c)
	}
	c.on = true
	c.publish()
	if !c.outstanding() || c.settle(1, false) != 1 || c.outstanding() {
		t.Errorf("the first publish in confirm mode is not number 1: %+v", c)
	}
}

// TestConfirmsKeepNoMemory: nothing grows while the window of what is due does not.
func TestConfirmsKeepNoMemory(t *testing.T) {
	c := confirms{on: true}
	for range 100 {
		c.publish()
	}
	for tag := uint64(1); tag < 1<<20; tag += 2 {
		c.publish()
		c.publish()
		c.settle(tag+1, false) // out of order
		c.settle(tag, false)
	}
	if !c.outstanding() || cap(c.beyond) > 8 {
		t.Errorf("%d words for a window of 100 tags after a million", cap(c.beyond))
	}
}
