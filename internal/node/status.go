package node

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"amqproxy/membership"
	"amqproxy/shard"
)

// StreamStatus is one stream for the admin view.
type StreamStatus struct {
	VHost      string   `json:"vhost"`
	Stream     string   `json:"stream"`
	State      State    `json:"state"` // on this node
	Reason     string   `json:"reason,omitempty"`
	Type       string   `json:"type"`
	HashOn     string   `json:"hash_on"`
	Policy     string   `json:"policy"`
	Shards     int      `json:"shards"` // in use, on all nodes
	Digest     string   `json:"digest"` // of the table: equal on nodes that route alike
	Published  uint64   `json:"messages_published"`
	Delivered  uint64   `json:"messages_delivered"`
	Returned   uint64   `json:"messages_returned"`
	Rerouted   uint64   `json:"messages_rerouted"`
	Retried    uint64   `json:"messages_retried"`
	Dropped    uint64   `json:"messages_dropped"`
	Refused    uint64   `json:"methods_refused"`
	Difference []string `json:"differences,omitempty"`
}

// ShardStatus is one shard for the admin view.
type ShardStatus struct {
	VHost     string `json:"vhost"`
	Stream    string `json:"stream"`
	Queue     string `json:"queue"`
	Node      string `json:"node"`
	Index     int    `json:"index"`
	Weight    uint32 `json:"weight"`
	State     string `json:"state"`     // ready: it takes messages; making; away: its node does not serve; retired; closing
	Ready     bool   `json:"ready"`     // it takes messages
	Consumers int    `json:"consumers"` // of this proxy's clients
}

// MemberStatus is one node for the admin view.
type MemberStatus struct {
	Node      string    `json:"node"`
	Gossip    string    `json:"gossip"` // host:port; "" without gossip
	Broker    string    `json:"broker"`
	Presence  string    `json:"presence"` // alive or lost
	Condition Condition `json:"condition"`
	Version   string    `json:"version"` // of its proxy
	Self      bool      `json:"self"`
}

// Members are all nodes that are known, by name.
func (n *Node) Members() []MemberStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []MemberStatus{}
	for _, name := range slices.Sorted(maps.Keys(n.members)) {
		m := n.members[name]
		st := MemberStatus{Node: name, Gossip: m.addr, Broker: m.broker, Presence: "alive", Condition: m.condition, Version: m.version, Self: name == n.cfg.Name}
		if m.presence != membership.Alive {
			st.Presence = "lost"
			if n.dead[name] {
				st.Condition = BrokerDown
			}
		}
		all = append(all, st)
	}
	return all
}

// Streams are all streams, by vhost and name.
func (n *Node) Streams() []StreamStatus {
	snap := n.Snapshot()
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []StreamStatus{}
	for name, s := range n.streams {
		t := snap.Tables()[name]
		if t == nil {
			continue // it became a stream this moment
		}
		state, reason := s.state, s.reason
		if n.condition == BrokerDown {
			state, reason = Failed, "the broker does not answer"
		}
		all = append(all, StreamStatus{
			VHost: name.VHost, Stream: name.Stream, State: state, Reason: reason,
			Type: cmp.Or(t.Declared.Type, "adopted"), HashOn: t.HashOn().String(), Policy: s.settings.Policy,
			Shards: len(t.Shards), Digest: t.Digest(), Published: s.counters.Published.Load(), Delivered: s.counters.Delivered.Load(),
			Returned: s.counters.Returned.Load(), Rerouted: s.counters.Rerouted.Load(), Retried: s.counters.Retried.Load(), Dropped: s.counters.Dropped.Load(),
			Refused: s.counters.Refused.Load(), Difference: s.differs,
		})
	}
	slices.SortFunc(all, func(a, b StreamStatus) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Stream, b.Stream))
	})
	return all
}

// Shards are all shards of all nodes, by vhost, stream, node and index.
func (n *Node) Shards() []ShardStatus {
	snap := n.Snapshot()
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []ShardStatus{}
	for name, s := range n.streams {
		ready := map[string]bool{}
		if t := snap.Tables()[name]; t != nil {
			for _, sh := range t.Shards {
				ready[sh.Queue] = true
			}
		}
		known := map[string]bool{}
		add := func(queue, node, state string, index int, weight uint32) {
			known[queue] = true
			if ready[queue] {
				state = "ready"
			}
			all = append(all, ShardStatus{VHost: name.VHost, Stream: name.Stream, Queue: queue, Node: node, Index: index, Weight: weight,
				State: state, Ready: ready[queue], Consumers: n.seats[shard.Queue{VHost: name.VHost, Name: queue}]})
		}
		for node, shards := range s.place.shards {
			for _, sh := range shards {
				add(sh.Queue, node, "away", sh.Index, sh.Weight)
			}
		}
		for node, retired := range s.place.retired {
			for _, r := range retired {
				state := "retired"
				if r.Closing != "" {
					state = "closing"
				}
				index, _ := strconv.Atoi(r.Queue[strings.LastIndexByte(r.Queue, ' ')+1:])
				add(r.Queue, node, state, index, 0)
			}
		}
		for i, q := range s.queues { // of this node, and not made yet
			if !known[q] {
				add(q, n.cfg.Name, "making", i, s.settings.Weight)
			}
		}
	}
	slices.SortFunc(all, func(a, b ShardStatus) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Index, b.Index))
	})
	return all
}
