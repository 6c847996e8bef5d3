package demo

import "testing"

// goodRun is one in which all promises were kept.
func goodRun() outcome {
	return outcome{
		counts: counts{Published: 10, Confirmed: 10, Delivered: 10, Doubled: 2, Reordered: 1},
		moves:  []move{{due: 3, moved: 3}, {due: 3, moved: 3}, {}},
		steady: []string{"a", "b"},
	}
}

// TestJudge: each promise is broken by what breaks it, and by nothing else.
func TestJudge(t *testing.T) {
	if ps := goodRun().judge(); !kept(ps) {
		t.Errorf("a good run: %+v", ps)
	}
	for i, breaks := range []func(*outcome){
		func(o *outcome) { o.Missing = 1 },
		func(o *outcome) { o.moves[1].moved = 2 },
		func(o *outcome) { o.moves[2].foreign = 1 },
		func(o *outcome) { o.disorder = []string{"a"} },
		func(o *outcome) { o.late = []string{"broker c is back: it is not"} },
	} {
		o := goodRun()
		breaks(&o)
		ps := o.judge()
		if kept(ps) {
			t.Errorf("run %d counts as good", i)
		}
		for n, p := range ps {
			if p.kept == (n == i) {
				t.Errorf("run %d: '%s' is kept: %t (%s)", i, p.text, p.kept, p.detail)
			}
		}
	}
}

// TestJudgeGuests: what other consumers have taken is not called lost, and no more than that
// is forgiven.
func TestJudgeGuests(t *testing.T) {
	o := goodRun()
	o.Missing, o.Guests = 5, 5
	if ps := o.judge(); !kept(ps) {
		t.Errorf("%+v", ps)
	}
	if o.Missing++; kept(o.judge()) {
		t.Error("one is lost, and nobody says so")
	}
}
