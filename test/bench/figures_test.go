package main

import "testing"

func TestMedianAndInterval(t *testing.T) {
	for _, c := range []struct {
		values            []float64
		median, low, high float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{4, 1}, 2.5, 1, 4},
		{[]float64{5, 1, 3, 2, 4}, 3, 1, 5},
		{[]float64{6, 5, 1, 3, 2, 4}, 3.5, 1, 6},
		{[]float64{9, 8, 7, 6, 5, 4, 3, 2, 1}, 5, 2, 8}, // 96.1 %
	} {
		low, high := interval(c.values)
		if m := median(c.values); m != c.median || low != c.low || high != c.high {
			t.Errorf("%v: median %v in %v to %v, want %v in %v to %v", c.values, m, low, high, c.median, c.low, c.high)
		}
	}
}

// TestConfirmsOutOfOrder: a broker may confirm one by one, in any order, and
// several at once.
func TestConfirmsOutOfOrder(t *testing.T) {
	p := publisher{ahead: map[uint64]bool{}}
	for _, c := range []struct {
		tag             uint64
		multiple        bool
		confirmed, more uint64
	}{
		{2, false, 0, 1}, {1, false, 2, 0}, {6, false, 2, 1}, {4, true, 4, 1}, {5, false, 6, 0}, {9, true, 9, 0}, {9, true, 9, 0},
	} {
		p.acked(c.tag, c.multiple)
		if p.confirmed != c.confirmed || uint64(len(p.ahead)) != c.more {
			t.Errorf("after %d (multiple: %v): all up to %d and %d more, want %d and %d", c.tag, c.multiple, p.confirmed, len(p.ahead), c.confirmed, c.more)
		}
	}
}

func TestGoalsNameScenarios(t *testing.T) {
	known := map[string]bool{}
	for _, s := range scenarios() {
		known[s.name()] = true
	}
	for _, g := range goals() {
		if !known[g.scenario] {
			t.Errorf("goal %q is about scenario %q, which is not there", g.text, g.scenario)
		}
	}
}
