package demo

import "testing"

// TestLedger: what each turn of a message's life counts as.
func TestLedger(t *testing.T) {
	l := newLedger([]string{"a", "b"})
	for seq := range 4 {
		l.published("a", seq)
	}
	l.published("a", 3) // sent again
	l.delivered("a", 0, false)
	l.confirmed("a", 0) // after its delivery
	l.confirmed("a", 1)
	l.confirmed("a", 2)
	l.delivered("a", 2, false)
	if got := l.total().Missing; got != 1 {
		t.Errorf("%d are missing, want that which is confirmed and was not delivered", got)
	}
	l.delivered("a", 1, true)  // late, and flagged though it was never seen: no repetition
	l.delivered("a", 1, true)  // a repetition
	l.delivered("a", 2, false) // a double
	l.delivered("b", 0, false) // never published
	l.delivered("c", 0, false) // of no key of ours
	l.strange()
	want := counts{Published: 4, Again: 1, Confirmed: 3, Delivered: 3, Repeated: 1, Doubled: 1, Reordered: 1, Strange: 3}
	if got := l.total(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := l.reordered(); !got["a"] || len(got) != 1 {
		t.Errorf("reordered: %v, want a", got)
	}
	if got := l.progress()["a"]; got != (progress{confirmed: 3, delivered: 3}) {
		t.Errorf("progress %+v", got)
	}
}
