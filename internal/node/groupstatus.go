package node

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"amqproxy/shard"
)

// GroupStatus is the group of one stream for the admin view: of all nodes.
type GroupStatus struct {
	VHost   string         `json:"vhost"`
	Stream  string         `json:"stream"`
	Mode    string         `json:"mode"`
	Shards  []GroupShard   `json:"shards"` // a row for each that has to do with a shard
	Standby []GroupStandby `json:"standby"`
}

// GroupShard is a shard and one who reads it.
type GroupShard struct {
	Queue    string `json:"queue"`
	Node     string `json:"node"`
	Consumer string `json:"consumer"` // its tag; "" if nobody reads it
	Proxy    string `json:"proxy"`    // the node that it is connected to
	Client   string `json:"client"`
	Ready    int    `json:"ready"`   // messages; -1 if its broker does not tell
	Unacked  int    `json:"unacked"` // messages that its consumer has, or had a moment ago
	State    string `json:"state"`   // active, handing over, waiting or uncovered
}

// GroupStandby is a consumer that reads no shard.
type GroupStandby struct {
	Consumer string `json:"consumer"`
	Proxy    string `json:"proxy"`
	Client   string `json:"client"`
}

// uncovered is the state of a shard that nobody is to read.
const uncovered = "uncovered"

// Groups are all groups, or those of the streams of one name, by vhost and stream.
func (n *Node) Groups(ctx context.Context, stream string) []GroupStatus {
	all := []GroupStatus{}
	for _, g := range n.groupsNow() {
		if stream == "" || g.Stream == stream {
			all = append(all, g)
		}
	}
	var asking sync.WaitGroup
	for _, g := range all {
		asking.Go(func() {
			ready := n.readyCounts(ctx, shard.Name{VHost: g.VHost, Stream: g.Stream})
			for i := range g.Shards {
				count, told := ready[g.Shards[i].Queue]
				if g.Shards[i].Ready = -1; told {
					g.Shards[i].Ready = count
				}
			}
		})
	}
	asking.Wait()
	return all
}

// Uncovered is how many shards of each stream with a group no consumer reads now.
func (n *Node) Uncovered() map[shard.Name]int {
	all := map[shard.Name]int{}
	for _, g := range n.groupsNow() {
		name := shard.Name{VHost: g.VHost, Stream: g.Stream}
		active := map[string]bool{}
		for _, s := range g.Shards {
			active[s.Queue] = active[s.Queue] || s.State == string(shard.Active) || s.State == string(shard.Handing)
		}
		all[name] = 0
		for _, is := range active {
			if !is {
				all[name]++
			}
		}
	}
	return all
}

// groupsNow are the groups as the facts have them.
func (n *Node) groupsNow() (all []GroupStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.cluster.State()
	for name, s := range n.streams {
		if s.settings.Consumers == shard.ConsumeLocal || s.state == Destroyed {
			continue
		}
		g := GroupStatus{VHost: name.VHost, Stream: name.Stream, Mode: s.settings.Consumers.String(), Shards: []GroupShard{}, Standby: []GroupStandby{}}
		read := map[string][]GroupShard{}
		consumers := n.consumersOf(st, name)
		for _, node := range slices.Sorted(maps.Keys(consumers)) {
			for _, k := range consumers[node] {
				for _, r := range k.Reads {
					if r.State == shard.Barred {
						r.State = shard.Waiting
					}
					read[r.Queue] = append(read[r.Queue], GroupShard{Queue: r.Queue, Consumer: k.Tag, Proxy: node, Client: k.Client, Unacked: r.Unacked, State: string(r.State)})
				}
				if len(k.Reads) == 0 && !k.Leaving {
					g.Standby = append(g.Standby, GroupStandby{k.Tag, node, k.Client})
				}
			}
		}
		for _, sh := range s.everywhere() {
			rows := read[sh.Queue]
			if rows == nil {
				rows = []GroupShard{{Queue: sh.Queue, State: uncovered}}
			}
			for _, row := range rows {
				row.Node = sh.Node
				g.Shards = append(g.Shards, row)
			}
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b GroupStatus) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Stream, b.Stream))
	})
	return all
}

// readyCounts asks the brokers how many messages the shards of a stream have ready.
func (n *Node) readyCounts(ctx context.Context, name shard.Name) map[string]int {
	counts := map[string]int{}
	s, err := n.find(name)
	if err != nil {
		return counts
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	for k, queues := range n.parts(s) {
		all, err := k.Count(ctx, name.VHost, queues, s.settings.Local)
		if err != nil && !errors.As(err, new(*shard.Refused)) {
			continue
		}
		for i, c := range all {
			if !c.Missing {
				counts[queues[i]] = c.Messages
			}
		}
	}
	return counts
}

// Handovers counts shards that consumers here have given back, and how long it took.
type Handovers struct {
	Count   uint64
	Seconds float64
	Buckets map[float64]uint64 // how many took at most so many seconds
}

func (h *Handovers) note(took time.Duration) {
	if h.Buckets == nil {
		h.Buckets = map[float64]uint64{}
	}
	h.Count++
	h.Seconds += took.Seconds()
	for _, most := range []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60} {
		if took.Seconds() <= most {
			h.Buckets[most]++
		} else {
			h.Buckets[most] += 0
		}
	}
}

// Handovers are those since the start.
func (n *Node) Handovers() Handovers {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.handed
	h.Buckets = maps.Clone(h.Buckets)
	return h
}
