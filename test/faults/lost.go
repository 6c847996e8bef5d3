package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// loss is what lost messages have in common: the shard or node that their keys are
// at home on, and the publisher's entrance.
type loss struct{ group, entrance int }

// span is how many there are, and when they were acked, from the fault on.
type span struct {
	messages    int
	first, last time.Duration
}

// losses are all that were lost.
func (r *record) losses() map[loss]span {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[loss]span{}
	for publisher, fates := range r.fates {
		for _, f := range fates {
			if !r.lost(f) {
				continue
			}
			l, after := loss{r.homes.group[f.key], r.entrance[publisher]}, f.ackedAt.Sub(r.struck)
			s, more := all[l]
			if !more {
				s.first, s.last = after, after
			}
			all[l] = span{s.messages + 1, min(s.first, after), max(s.last, after)}
		}
	}
	return all
}

// tellLosses says where to look for what was lost.
func (r *record) tellLosses(out io.Writer) {
	all := r.losses()
	order := slices.SortedFunc(maps.Keys(all), func(a, b loss) int { return all[b].messages - all[a].messages })
	for _, l := range order {
		s := all[l]
		fmt.Fprintf(out, "  %d of '%s', published at node %d, acked %.3f to %.3f s after the fault began\n",
			s.messages, r.homes.names[l.group], l.entrance+1, s.first.Seconds(), s.last.Seconds())
	}
}
