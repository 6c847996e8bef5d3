package node

import (
	"cmp"
	"slices"
)

// StreamStatus is one stream for the admin view.
type StreamStatus struct {
	VHost      string   `json:"vhost"`
	Stream     string   `json:"stream"`
	State      State    `json:"state"`
	Reason     string   `json:"reason,omitempty"`
	Type       string   `json:"type"`
	HashOn     string   `json:"hash_on"`
	Policy     string   `json:"policy"`
	Shards     int      `json:"shards"`
	Published  uint64   `json:"messages_published"`
	Delivered  uint64   `json:"messages_delivered"`
	Returned   uint64   `json:"messages_returned"`
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
	Ready     bool   `json:"ready"`
	Consumers int    `json:"consumers"` // of this proxy's clients
}

// Streams are all streams, by vhost and name.
func (n *Node) Streams() []StreamStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []StreamStatus{}
	for _, s := range n.streams {
		t := s.table(n.cfg.Name)
		all = append(all, StreamStatus{
			VHost: s.name.VHost, Stream: s.name.Stream, State: s.state, Reason: s.reason,
			Type: cmp.Or(s.declared.Type, "adopted"), HashOn: t.HashOn().String(), Policy: s.settings.Policy,
			Shards: len(t.Shards), Published: s.counters.Published.Load(), Delivered: s.counters.Delivered.Load(),
			Returned: s.counters.Returned.Load(), Refused: s.counters.Refused.Load(), Difference: s.differs,
		})
	}
	slices.SortFunc(all, func(a, b StreamStatus) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Stream, b.Stream))
	})
	return all
}

// Shards are all shards, by vhost, stream, node and index.
func (n *Node) Shards() []ShardStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []ShardStatus{}
	for _, s := range n.streams {
		for i, q := range s.queues {
			all = append(all, ShardStatus{VHost: s.name.VHost, Stream: s.name.Stream, Queue: q, Node: n.cfg.Name, Index: i,
				Weight: s.settings.Weight, Ready: s.ready, Consumers: n.seats[seat{s.name.VHost, q}]})
		}
	}
	slices.SortFunc(all, func(a, b ShardStatus) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Index, b.Index))
	})
	return all
}
