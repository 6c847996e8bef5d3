package shard

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// groupModel is nodes that all know the same at once; what their consumers are told they
// do at once.
type groupModel struct {
	now       time.Time
	shards    []Shard
	ordered   bool
	nodes     map[string]*Group
	consumers map[string][]Consumer
	moves     int // readings that ended
}

func newGroupModel(shards int, ordered bool) *groupModel {
	g := &groupModel{now: time.Unix(1_000_000, 0), ordered: ordered, nodes: map[string]*Group{}, consumers: map[string][]Consumer{}}
	for i := range shards {
		g.shards = append(g.shards, Shard{Queue: fmt.Sprintf("q%02d", i), Node: fmt.Sprintf("n%d", i%3)})
	}
	for i := range 3 {
		g.nodes[fmt.Sprintf("n%d", i)] = &Group{}
	}
	return g
}

func (g *groupModel) join(node, id string) {
	g.consumers[node] = append(g.consumers[node], Consumer{ID: id})
}

func (g *groupModel) leave(id string) {
	for node, all := range g.consumers {
		g.consumers[node] = slices.DeleteFunc(all, func(k Consumer) bool { return k.ID == id })
	}
}

// step has every node divide by what held before the step, and its consumers follow: a shard
// that is given back is free at the next step. It tells whether anything was done.
func (g *groupModel) step(t rapid.TB) (changed bool) {
	before := g.facts()
	parts := map[string][]Shard{}
	for node, group := range g.nodes {
		maps.Copy(parts, group.Divide(g.now, node, g.shards, before, g.ordered))
	}
	for node := range g.consumers {
		for i := range g.consumers[node] {
			k := &g.consumers[node][i]
			had := k.Reads
			k.Reads = nil
			for _, s := range parts[k.ID] {
				k.Reads = append(k.Reads, Reading{Queue: s.Queue, State: Active})
			}
			for _, r := range had {
				if !slices.Contains(k.Reads, r) {
					g.moves++
				}
			}
			changed = changed || !slices.Equal(had, k.Reads)
		}
	}
	if g.ordered {
		for queue, readers := range g.readers() {
			if len(readers) > 1 {
				t.Fatalf("%s has the readers %v", queue, readers)
			}
		}
	}
	g.now = g.now.Add(100 * time.Millisecond)
	return changed
}

func (g *groupModel) facts() map[string][]Consumer {
	all := map[string][]Consumer{}
	for node, consumers := range g.consumers {
		for _, k := range consumers {
			k.Reads = slices.Clone(k.Reads)
			all[node] = append(all[node], k)
		}
	}
	return all
}

func (g *groupModel) readers() map[string][]string {
	all := map[string][]string{}
	for _, consumers := range g.consumers {
		for _, k := range consumers {
			for _, r := range k.Reads {
				all[r.Queue] = append(all[r.Queue], k.ID)
			}
		}
	}
	return all
}

// settle goes on until nothing changes for longer than a surplus is kept, and tells how many
// readings each consumer has.
func (g *groupModel) settle(t rapid.TB) (loads []int) {
	quiet := 0
	for step := 0; quiet < int(steadyMost/(100*time.Millisecond))+2; step++ {
		if step > 1000 {
			t.Fatalf("it never comes to rest: %v", g.readers())
		}
		if quiet++; g.step(t) {
			quiet = 0
		}
	}
	for _, consumers := range g.consumers {
		for _, k := range consumers {
			loads = append(loads, len(k.Reads))
		}
	}
	slices.Sort(loads)
	return loads
}

// TestDivide: whoever comes and goes, all nodes come to rest with every shard read and the
// readings even, and in an ordered group no shard ever has two readers.
func TestDivide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGroupModel(rapid.IntRange(1, 12).Draw(t, "shards"), rapid.Bool().Draw(t, "ordered"))
		var there []string
		for i := range rapid.IntRange(1, 20).Draw(t, "events") {
			if len(there) > 0 && rapid.IntRange(0, 2).Draw(t, "leaves") == 0 {
				at := rapid.IntRange(0, len(there)-1).Draw(t, "who")
				g.leave(there[at])
				there = slices.Delete(there, at, at+1)
			} else {
				there = append(there, fmt.Sprintf("k%02d", i))
				g.join(fmt.Sprintf("n%d", rapid.IntRange(0, 2).Draw(t, "node")), there[len(there)-1])
			}
			for range rapid.IntRange(0, 8).Draw(t, "steps") {
				g.step(t)
			}
		}
		loads := g.settle(t)
		if len(loads) == 0 {
			return
		}
		if got := len(g.readers()); got != len(g.shards) {
			t.Fatalf("%d of %d shards are read", got, len(g.shards))
		}
		if least, most := loads[0], loads[len(loads)-1]; most-least > 1 {
			t.Fatalf("the consumers read %v shards", loads)
		}
	})
}

// TestDivideMovesTheFewest: a fourth consumer for six shards takes one of the others', and
// when it goes its own alone move.
func TestDivideMovesTheFewest(t *testing.T) {
	g := newGroupModel(6, true)
	for i := range 3 {
		g.join(fmt.Sprintf("n%d", i), fmt.Sprintf("k%d", i))
	}
	if loads := g.settle(t); fmt.Sprint(loads) != "[2 2 2]" || g.moves != 0 {
		t.Fatalf("%v after %d moves", loads, g.moves)
	}
	for _, consumers := range g.consumers {
		for _, k := range consumers {
			for _, r := range k.Reads {
				if at := slices.IndexFunc(g.shards, func(s Shard) bool { return s.Queue == r.Queue }); g.shards[at].Node[1:] != k.ID[1:] {
					t.Errorf("%s reads %s of %s", k.ID, r.Queue, g.shards[at].Node)
				}
			}
		}
	}
	g.join("n0", "k3")
	if loads := g.settle(t); fmt.Sprint(loads) != "[1 1 2 2]" || g.moves != 1 {
		t.Fatalf("%v after %d moves", loads, g.moves)
	}
	g.leave("k3")
	if loads := g.settle(t); fmt.Sprint(loads) != "[2 2 2]" || g.moves != 1 {
		t.Fatalf("%v after %d moves", loads, g.moves)
	}
}

// TestDivideIsSteady: a consumer that comes and goes at once moves nothing, and one that does
// so again and again has to stay longer for it.
func TestDivideIsSteady(t *testing.T) {
	g := newGroupModel(6, true)
	g.join("n0", "k0")
	g.settle(t)
	g.now = g.now.Add(2 * steadyOver)
	for i := range 6 {
		g.join("n1", fmt.Sprint("flap", i))
		for range 1 << max(i-1, 0) {
			g.step(t)
		}
		g.leave(fmt.Sprint("flap", i))
		g.step(t)
	}
	if g.moves > 1 {
		t.Errorf("%d moves", g.moves)
	}
	g.join("n1", "k1")
	if loads := g.settle(t); fmt.Sprint(loads) != "[3 3]" {
		t.Errorf("%v", loads)
	}
}

// TestDivideLeaves: who gives a shard back keeps all others from it until he has, and whoever
// is about to end is assigned nothing.
func TestDivideLeaves(t *testing.T) {
	shards := []Shard{{Queue: "q"}}
	consumers := map[string][]Consumer{
		"n0": {{ID: "a", Leaving: true, Reads: []Reading{{Queue: "q", State: Handing}}}},
		"n1": {{ID: "b"}},
	}
	g := &Group{}
	if parts := g.Divide(time.Now(), "n1", shards, consumers, true); len(parts["b"]) != 0 {
		t.Errorf("b reads %v before a has given it back", parts["b"])
	}
	if parts := (&Group{}).Divide(time.Now(), "n0", shards, consumers, true); len(parts["a"]) != 0 {
		t.Errorf("a keeps %v", parts["a"])
	}
	consumers["n0"] = nil
	if parts := g.Divide(time.Now(), "n1", shards, consumers, true); len(parts["b"]) != 1 {
		t.Errorf("b reads %v", parts["b"])
	}
}

// TestDivideGoesByWhoReads: after a split two say that they read a shard; the one that only
// waits for it does not take it from the other.
func TestDivideGoesByWhoReads(t *testing.T) {
	shards := []Shard{{Queue: "q"}}
	consumers := map[string][]Consumer{
		"n0": {{ID: "a", Reads: []Reading{{Queue: "q", State: Waiting}}}},
		"n1": {{ID: "b", Reads: []Reading{{Queue: "q", State: Active}}}},
	}
	if parts := (&Group{}).Divide(time.Now(), "n0", shards, consumers, true); len(parts["a"]) != 0 {
		t.Errorf("a reads %v", parts["a"])
	}
	if parts := (&Group{}).Divide(time.Now(), "n1", shards, consumers, true); len(parts["b"]) != 1 {
		t.Errorf("b reads %v", parts["b"])
	}
}

// TestDivideIsQuick: a thousand consumers of a thousand shards on three nodes are divided anew
// in less than 100 ms.
func TestDivideIsQuick(t *testing.T) {
	g := newGroupModel(1000, true)
	for i := range 1000 {
		g.join(fmt.Sprintf("n%d", i%3), fmt.Sprintf("consumer-%d", i))
	}
	g.step(t)
	facts := g.facts()
	best := time.Hour
	for range 5 {
		began := time.Now()
		g.nodes["n0"].Divide(g.now, "n0", g.shards, facts, true)
		best = min(best, time.Since(began))
	}
	if best > slower*100*time.Millisecond {
		t.Errorf("it took %v", best)
	}
	t.Log(best)
}

// TestDivideGoesRoundWhoIsBarred: a shard goes to one who can reach its broker, and stays if
// nobody can.
func TestDivideGoesRoundWhoIsBarred(t *testing.T) {
	shards := []Shard{{Queue: "q"}, {Queue: "r"}}
	a := Consumer{ID: "a", Reads: []Reading{{Queue: "q", State: Barred}}, Unreached: []string{"q"}}
	b := Consumer{ID: "b", Reads: []Reading{{Queue: "r", State: Active}}}
	divide := func(node string) []Shard {
		return (&Group{}).Divide(time.Now(), node, shards, map[string][]Consumer{"n0": {a}, "n1": {b}}, true)[map[string]string{"n0": "a", "n1": "b"}[node]]
	}
	if part := divide("n0"); len(part) != 0 {
		t.Errorf("a keeps %v", part)
	}
	a.Reads = nil // it has given up
	if part := divide("n1"); len(part) != 2 {
		t.Errorf("b reads %v", part)
	}
	b.Unreached = []string{"q"}
	if part := divide("n0"); len(part) != 1 || part[0].Queue != "q" {
		t.Errorf("nobody can, and a is to try %v", part)
	}
}
