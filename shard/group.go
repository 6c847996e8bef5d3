package shard

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Consumer is a member of the group of a stream as its proxy tells of it to all.
type Consumer struct {
	ID        string    `json:"id"`     // unlike any other's
	Tag       string    `json:"tag"`    // its consumer tag
	Client    string    `json:"client"` // host:port
	Joined    int64     `json:"joined"` // Unix milliseconds at its proxy
	Exclusive bool      `json:"exclusive,omitempty"`
	Leaving   bool      `json:"leaving,omitempty"` // it is gone but for what it has not given back
	Reads     []Reading `json:"reads,omitempty"`   // by queue name
	// Unreached are shards whose brokers its proxy could not reach for a while.
	Unreached []string `json:"unreached,omitempty"`
}

// Reading is a shard that a consumer has to do with.
type Reading struct {
	Queue   string       `json:"queue"`
	State   ReadingState `json:"state"`
	Unacked int          `json:"unacked,omitempty"`
}

// ReadingState is how far a consumer is with a shard.
type ReadingState string

const (
	Waiting ReadingState = "waiting"      // it is to read it, and can't yet
	Barred  ReadingState = "unreached"    // the same, and there was no way to its broker for a while
	Active  ReadingState = "active"       // the broker delivers to it
	Handing ReadingState = "handing over" // it gives it back: what the client has is to be settled first
)

// Part is what one consumer is to read.
type Part struct {
	Shards []Shard // by queue name
	Gone   bool    // the stream is no more, and the consumer with it
}

// Parts are what the consumers of one node are to read. Immutable.
type Parts struct {
	Serial uint64          // the higher one is newer
	Of     map[uint64]Part // by the node's numbers for the consumers
}

// Group decides what the consumers of one node read of a stream. It is pure: all that it
// knows comes with Divide. Every proxy comes to the same assignment from the same facts, and
// each acts on its own consumers only: one gives back what is another's, and takes a shard
// when nobody else says that he has it. Whether that is so the broker has to tell.
type Group struct {
	surplus map[surplus]time.Time // since when a consumer reads what is not its part
	joined  []time.Time           // when the members changed of late
	members uint64                // a hash of them
}

type surplus struct{ id, queue string }

// How long a consumer keeps what is to be another's. Members that come and go within that
// time move no shard, and the more they do the longer it gets.
const (
	steady     = 100 * time.Millisecond
	steadyMost = 3 * time.Second
	steadyOver = 10 * time.Second
)

// Divide gives the parts of the consumers of node self, by their IDs: what each is to have and
// nobody else has, and for a while what it is to give back. consumers are those of all nodes
// that live, by node.
func (g *Group) Divide(now time.Time, self string, shards []Shard, consumers map[string][]Consumer, ordered bool) map[string][]Shard {
	var members []Member
	held, tries := Assignment{}, Assignment{}
	readers := map[string][]string{} // whoever has to do with a shard, by queue
	for node, all := range consumers {
		for _, k := range all {
			if !k.Leaving {
				members = append(members, Member{ID: k.ID, Node: node})
			}
			for _, r := range k.Reads {
				readers[r.Queue] = append(readers[r.Queue], k.ID)
				switch {
				case k.Leaving:
				case r.State == Active:
					held[r.Queue] = append(held[r.Queue], k.ID)
				case r.State == Waiting || r.State == Barred:
					tries[r.Queue] = append(tries[r.Queue], k.ID)
				}
			}
		}
	}
	for queue, ids := range tries {
		if len(held[queue]) == 0 {
			held[queue] = ids
		}
	}
	g.count(now, members)
	assigned := Assign(shards, members, held, ordered)
	bypass(assigned, members, consumers)
	over := map[surplus]time.Time{}
	parts := map[string][]Shard{}
	own := map[string]*Consumer{}
	for i, k := range consumers[self] {
		if !k.Leaving {
			own[k.ID] = &consumers[self][i]
		}
	}
	for _, s := range shards {
		to := assigned[s.Queue]
		for _, id := range to {
			others := slices.ContainsFunc(readers[s.Queue], func(other string) bool { return other != id && !slices.Contains(to, other) })
			if k := own[id]; k != nil && (!others || k.reads(s.Queue) != "") {
				parts[id] = append(parts[id], s)
			}
		}
		for _, id := range readers[s.Queue] {
			if k := own[id]; k != nil && !slices.Contains(to, id) && k.reads(s.Queue) == Active && g.keeps(now, surplus{id, s.Queue}, over) {
				parts[id] = append(parts[id], s)
			}
		}
	}
	g.surplus = over
	return parts
}

// bypass gives a shard to somebody else whose assignee can't reach it: to one of those with the
// fewest shards. If nobody can, it stays.
func bypass(assigned Assignment, members []Member, consumers map[string][]Consumer) {
	barred := map[surplus]bool{}
	for _, all := range consumers {
		for _, k := range all {
			for _, queue := range k.Unreached {
				barred[surplus{k.ID, queue}] = true
			}
		}
	}
	if len(barred) == 0 {
		return
	}
	load := map[string]int{}
	for _, to := range assigned {
		for _, id := range to {
			load[id]++
		}
	}
	members = slices.SortedFunc(slices.Values(members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	for _, queue := range slices.Sorted(maps.Keys(assigned)) {
		can := slices.DeleteFunc(slices.Clone(assigned[queue]), func(id string) bool { return barred[surplus{id, queue}] })
		if len(can) == 0 {
			best := ""
			for _, m := range members {
				if !barred[surplus{m.ID, queue}] && (best == "" || load[m.ID] < load[best]) {
					best = m.ID
				}
			}
			if best == "" {
				continue
			}
			load[best]++
			can = []string{best}
		}
		assigned[queue] = can
	}
}

// reads tells how far a consumer is with a shard that it does not give back; "" if it has
// nothing to do with it.
func (k *Consumer) reads(queue string) ReadingState {
	for _, r := range k.Reads {
		if r.Queue == queue && r.State != Handing {
			return r.State
		}
	}
	return ""
}

// keeps tells whether what is to be another's is kept a while longer, and notes in over since
// when it is.
func (g *Group) keeps(now time.Time, what surplus, over map[surplus]time.Time) bool {
	since, known := g.surplus[what]
	if !known {
		since = now
	}
	over[what] = since
	return now.Sub(since) < g.steadyFor()
}

// count notes when the members change.
func (g *Group) count(now time.Time, members []Member) {
	hash := uint64(0)
	for _, m := range members {
		hash ^= seed(m.ID)
	}
	g.joined = slices.DeleteFunc(g.joined, func(t time.Time) bool { return now.Sub(t) > steadyOver })
	if hash != g.members {
		g.members = hash
		g.joined = append(g.joined, now)
	}
}

// steadyFor is how long a surplus is kept now.
func (g *Group) steadyFor() time.Duration {
	return min(steady<<min(max(len(g.joined)-1, 0), 10), steadyMost)
}
