package shard

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// group is what a test assigns.
type group struct {
	shards  []Shard
	members []Member
	held    Assignment
	ordered bool
}

func (g *group) assign() Assignment { return Assign(g.shards, g.members, g.held, g.ordered) }

func testShard(i, nodes int) Shard {
	node := fmt.Sprint("n", i%nodes)
	return Shard{Queue: QueueName(DefaultPrefix, "shard.a", node, i/nodes), Node: node}
}

func testMember(i, nodes int) Member {
	return Member{ID: fmt.Sprint("consumer ", i), Node: fmt.Sprint("n", i*7%nodes)}
}

func drawGroup(t *rapid.T) *group {
	g := &group{ordered: rapid.Bool().Draw(t, "ordered"), held: Assignment{}}
	nodes := rapid.IntRange(1, 4).Draw(t, "nodes")
	for i := range rapid.IntRange(0, 12).Draw(t, "shards") {
		g.shards = append(g.shards, testShard(i, nodes))
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "members") {
		g.members = append(g.members, testMember(i, nodes))
	}
	return g
}

// change has members and shards come and go.
func (g *group) change(t *rapid.T) {
	for range rapid.IntRange(0, 3).Draw(t, "changes") {
		i := rapid.IntRange(0, 15).Draw(t, "which")
		if rapid.Bool().Draw(t, "a member") {
			m := testMember(i, 3)
			if k := slices.Index(g.members, m); k >= 0 {
				g.members = slices.Delete(g.members, k, k+1)
			} else if !slices.ContainsFunc(g.members, func(o Member) bool { return o.ID == m.ID }) {
				g.members = append(g.members, m)
			}
			continue
		}
		s := testShard(i, 3)
		if k := slices.Index(g.shards, s); k >= 0 {
			g.shards = slices.Delete(g.shards, k, k+1)
		} else if !slices.ContainsFunc(g.shards, func(o Shard) bool { return o.Queue == s.Queue }) {
			g.shards = append(g.shards, s)
		}
	}
}

// TestAssign: whatever a group goes through, it is covered and balanced, all who know the
// same assign the same, what nothing has changed stays, and no more moves than has to.
func TestAssign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGroup(t)
		for range 4 {
			got := g.assign()
			g.check(t, got)
			other := &group{slices.Clone(g.shards), slices.Clone(g.members), maps.Clone(g.held), g.ordered}
			rand.Shuffle(len(other.shards), func(i, j int) { other.shards[i], other.shards[j] = other.shards[j], other.shards[i] })
			rand.Shuffle(len(other.members), func(i, j int) { other.members[i], other.members[j] = other.members[j], other.members[i] })
			if diff := cmp.Diff(got, other.assign()); diff != "" {
				t.Fatalf("in another order it is another:\n%s", diff)
			}
			if stays, most := g.stays(got), g.mayStay(); stays < most {
				t.Fatalf("%d shards stay where they are, and %d could:\nheld %v\n got %v", stays, most, g.held, got)
			}
			g.held = got
			if diff := cmp.Diff(got, g.assign()); diff != "" {
				t.Fatalf("nothing has changed, and it moves:\n%s", diff)
			}
			g.change(t)
		}
	})
}

// check checks coverage and balance.
func (g *group) check(t *rapid.T, got Assignment) {
	load := map[string]int{}
	fewest, most := len(g.members), 0
	for _, s := range g.shards {
		ids := got[s.Queue]
		for _, id := range ids {
			load[id]++
		}
		fewest, most = min(fewest, len(ids)), max(most, len(ids))
	}
	switch {
	case len(g.members) == 0 || len(g.shards) == 0:
		if len(got) > 0 {
			t.Fatalf("of nothing came %v", got)
		}
		return
	case fewest == 0:
		t.Fatalf("a shard has nobody: %v", got)
	case g.ordered && most > 1, most-fewest > 1:
		t.Fatalf("shards have from %d to %d members: %v", fewest, most, got)
	}
	least, top := len(g.shards), 0
	for _, m := range g.members {
		least, top = min(least, load[m.ID]), max(top, load[m.ID])
	}
	standsBy := g.ordered && len(g.members) > len(g.shards)
	if top-least > 1 || least == 0 && !standsBy || len(load) > len(g.members) {
		t.Fatalf("members have from %d to %d shards: %v", least, top, got)
	}
}

// stays counts the shards that one who held them reads still.
func (g *group) stays(got Assignment) (count int) {
	for q, ids := range got {
		if slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(g.held[q], id) }) {
			count++
		}
	}
	return count
}

// mayStay is how many shards could, tried out: each stays with one of its holders, or goes.
func (g *group) mayStay() (best int) {
	if len(g.members) == 0 || len(g.shards) == 0 {
		return 0
	}
	least, more := 1, 0
	if len(g.members) < len(g.shards) {
		least, more = len(g.shards)/len(g.members), len(g.shards)%len(g.members)
	}
	load := map[string]int{}
	var try func(i, kept, more int)
	try = func(i, kept, more int) {
		if best = max(best, kept); i == len(g.shards) || kept+len(g.shards)-i <= best {
			return
		}
		for _, id := range g.held[g.shards[i].Queue] {
			if !slices.ContainsFunc(g.members, func(m Member) bool { return m.ID == id }) {
				continue
			}
			extra := 0
			if load[id] == least {
				extra = 1
			}
			if load[id] < least || load[id] == least && more > 0 {
				load[id]++
				try(i+1, kept+1, more-extra)
				load[id]--
			}
		}
		try(i+1, kept, more)
	}
	try(0, 0, more)
	return best
}

// TestAssignPrefersItsNode: where nobody held anything, who can read a shard of its own
// node does.
func TestAssignPrefersItsNode(t *testing.T) {
	g := &group{held: Assignment{}}
	for i := range 6 {
		g.shards = append(g.shards, testShard(i, 3))
	}
	for i := range 3 {
		g.members = append(g.members, Member{ID: fmt.Sprint("c", i), Node: fmt.Sprint("n", i)})
	}
	for q, ids := range g.assign() {
		for _, s := range g.shards {
			if s.Queue == q && ids[0] != "c"+s.Node[1:] {
				t.Errorf("%s goes to %s", q, ids[0])
			}
		}
	}
}

// TestAssignAThousand to a thousand takes no time that anybody notices.
func TestAssignAThousand(t *testing.T) {
	g := &group{held: Assignment{}}
	for i := range 1000 {
		g.shards = append(g.shards, testShard(i, 3))
		g.members = append(g.members, testMember(i, 3))
	}
	best := time.Hour
	for range 5 { // others use the machine too
		began := time.Now()
		held := g.assign()
		best = min(best, time.Since(began))
		g.held, g.members = held, g.members[1:]
	}
	if best > slower*100*time.Millisecond {
		t.Errorf("it took %s", best)
	}
	t.Logf("it took %s", best)
}
