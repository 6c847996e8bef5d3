package main

import "time"

// gaps are the longest times without a confirm, for each group of keys.
type gaps struct {
	last    []time.Time // zero: none has come yet, or no more is waited for
	longest []time.Duration
	ended   bool
}

func newGaps(groups int) gaps {
	return gaps{last: make([]time.Time, groups), longest: make([]time.Duration, groups)}
}

func (g *gaps) confirm(group int, now time.Time) {
	if g.ended {
		return
	}
	if !g.last[group].IsZero() {
		g.longest[group] = max(g.longest[group], now.Sub(g.last[group]))
	}
	g.last[group] = now
}

// end is when publishing ends: a group that is silent until then has a gap too.
func (g *gaps) end(now time.Time) {
	for group := range g.last {
		g.confirm(group, now)
	}
	g.ended = true
}

// worst is the longest gap of all groups, and of those that are not struck; -1 if
// there is no such group.
func (g *gaps) worst(struck []bool) (all, spared time.Duration) {
	spared = -1
	for group, d := range g.longest {
		all = max(all, d)
		if !struck[group] {
			spared = max(spared, d)
		}
	}
	return all, spared
}
