package main

import (
	"testing"
	"time"
)

// TestRecord: what the record counts is what happened, by a run whose losses,
// repetitions and order are known.
func TestRecord(t *testing.T) {
	r := newRecord(3, 1, &homes{group: make([]int, keys), node: []int{0, 1}, names: []string{"a", "b"}})
	r.mandatory[0] = true
	var all []message
	for range 8 {
		all = append(all, r.published(0, 5))
	}
	for _, i := range []int{0, 1, 2, 3, 4} {
		r.acked(all[i], 0)
	}
	r.nacked(all[5])
	r.unanswered(all[6])
	r.returned(all[4].body()) // acked and returned: not lost
	r.delivered(all[1].body(), false)
	r.delivered(all[0].body(), true) // the first delivery, after a later message
	r.delivered(all[1].body(), true)
	r.delivered(all[1].body(), false) // said to be new
	r.delivered(all[6].body(), false) // unanswered, and there all the same
	r.delivered(all[2].body()[:9], false)
	r.delivered(message{run: 2, key: 5}.body(), true) // of another run
	r.shardDeleted("a", 0)
	r.acked(r.published(0, 5), 0) // the first that the deletion does not excuse
	var got tally
	r.tally(&got)
	want := tally{Attempted: 9, Acked: 6, Nacked: 1, Returned: 1, Unanswered: 1, Delivered: 3,
		Lost: 1, LostMandatory: 1, WithShard: 2, Duplicated: 2, Unflagged: 1, Reordered: 1, Strange: 2}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestGaps: a group that gets no confirm any more has a gap until the end.
func TestGaps(t *testing.T) {
	g, at := newGaps(2), time.Now()
	for second := range 5 {
		g.confirm(0, at.Add(time.Duration(second)*time.Second))
	}
	g.confirm(1, at)
	g.end(at.Add(9 * time.Second))
	g.confirm(1, at.Add(20*time.Second)) // what comes late counts no more
	if all, spared := g.worst([]bool{false, true}); all != 9*time.Second || spared != 5*time.Second {
		t.Errorf("%s overall, %s unaffected", all, spared)
	}
	if _, spared := g.worst([]bool{true, true}); spared >= 0 {
		t.Errorf("%s where no group is unaffected", spared)
	}
}
