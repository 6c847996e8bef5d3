package test

import (
	"slices"
	"testing"
	"time"
)

// These are how many messages flow while consumers join and leave, at least.
const (
	groupMessages      = 50_000
	groupMessagesApart = 10_000
)

// TestManyGroupMoves: consumers join and leave on all proxies while keyed messages flow. None
// is lost or comes twice, those of a key come in order and to one consumer at a time, and no
// shard moves that need not.
func TestManyGroupMoves(t *testing.T) { bothBeside(t, testManyGroupMoves) }

func testManyGroupMoves(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	const keys = 504
	f := g.flow("ordered", "moves", keys)
	var readers []*reader
	join := func(i int) { readers = append(readers, f.join(i, 40)) }
	leave := func(n int) {
		readers[n].leave()
		readers = slices.Delete(readers, n, n+1)
	}
	join(0)
	f.step(func() {}, 6)
	f.produce(0, 0)
	f.mark()
	f.covered(f.t, f.shards(0, 1, 2)...)
	f.step(func() { join(1) }, 3, 3)
	f.step(func() { join(2) }, 2, 2, 2)
	f.step(func() { join(0) }, 2, 2, 1, 1)
	f.step(func() { leave(1) }, 2, 2, 2)
	f.step(func() { join(1) }, 2, 2, 1, 1)
	f.step(func() { join(1) }, 2, 1, 1, 1, 1)
	f.step(func() { join(2) }, 1, 1, 1, 1, 1, 1)
	f.step(func() { join(2) }, 1, 1, 1, 1, 1, 1, 0)
	f.step(func() { leave(0) }, 1, 1, 1, 1, 1, 1)
	f.step(func() { leave(2) }, 2, 1, 1, 1, 1)
	messages := groupMessages
	if on == apart { // the steps are the same, and a message costs as much
		messages = groupMessagesApart
	}
	f.reached(messages/keys + 1)
	f.end()
	f.verdict(t, false)
	for _, r := range readers {
		r.undisturbed(t)
		r.leave()
	}
}

// TestManyGroupMovesBalanced: the same for a balanced group, as far as each shard has one
// consumer.
func TestManyGroupMovesBalanced(t *testing.T) { bothBeside(t, testManyGroupMovesBalanced) }

func testManyGroupMovesBalanced(t *testing.T, on *threeBrokers) {
	f := startGroups(t, on, 2, "", "").flow("balanced", "moves", 96)
	one := f.join(0, 40)
	f.step(func() {}, 6)
	f.produce(0, groupPace)
	f.mark()
	f.covered(f.t, f.shards(0, 1, 2)...)
	f.step(func() { f.join(1, 40) }, 3, 3)
	f.step(func() { f.join(2, 40) }, 2, 2, 2)
	f.step(one.leave, 3, 3)
	f.end()
	f.verdict(t, false)
}

// step does something to a group, waits until it has these loads, and checks that it has not
// moved more shards than it had to: as the proxies show it, and as the messages came.
func (f *flow) step(do func(), loads ...int) {
	f.t.Helper()
	before, counted := f.readBy(), f.moved()
	began := time.Now()
	do()
	after := f.shared(f.stream, []int{0, 1, 2}, loads...)
	took := time.Since(began)
	if len(before) == 0 {
		return
	}
	f.mark()
	f.covered(f.t, f.shards(0, 1, 2)...)
	want := fewest(before, after)
	changed := 0
	for queue, tags := range after {
		if !slices.Equal(tags, []string{before[queue]}) {
			changed++
		}
	}
	if n := f.moved() - counted; changed != want || n != want {
		f.t.Errorf("%s: for the loads %v %d shards have other consumers and messages came from %d others, want %d; before %v, after %v", f.stream, loads, changed, n, want, before, after)
	}
	f.t.Logf("%s: %v after %s, moved %d", f.stream, loads, took, changed)
}

// readBy is who was the last to get something of each shard.
func (f *flow) readBy() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	by := map[string]string{}
	for queue, tag := range f.reader {
		by[queue] = tag
	}
	return by
}

// fewest is how many shards have to move from the consumers before to as many as there are
// after, to be shared evenly: those of who has gone, and what is above the larger part, or
// what the new one has to have.
func fewest(before map[string]string, after map[string][]string) int {
	now, had := map[string]bool{}, map[string]int{}
	for _, tags := range after {
		now[tags[0]] = true
	}
	gone, above := 0, 0
	for _, tag := range before {
		if had[tag]++; !now[tag] {
			gone++
		}
	}
	least, most := len(before)/len(now), (len(before)+len(now)-1)/len(now)
	lacking := 0
	for tag := range now {
		above += max(0, had[tag]-most)
		lacking += max(0, least-had[tag])
	}
	return max(gone, above, lacking)
}
