package shard

import "sync/atomic"

// Counters count what goes through a stream. They outlive its tables.
type Counters struct {
	Published, Delivered, Confirmed, Nacked, Returned, Rerouted, Retried, Dropped, Refused atomic.Uint64
}

// Name identifies a stream: one name in one vhost.
type Name struct {
	VHost, Stream string
}

// Snapshot is everything that a session needs to know about names: which are
// streams, and what those are that match a policy and are none. Immutable.
type Snapshot struct {
	node    string
	rules   *Rules
	tables  map[Name]*Table
	others  map[Name]Verdict
	queues  map[Queue]Standing
	brokers map[string]Broker
}

// NewSnapshot makes the Snapshot of a node; it takes ownership of the maps. What
// others says of a name holds against a table. queues are the shards of all nodes,
// brokers those of the other nodes, by node.
func NewSnapshot(node string, rules *Rules, tables map[Name]*Table, others map[Name]Verdict, queues map[Queue]Standing, brokers map[string]Broker) *Snapshot {
	return &Snapshot{node: node, rules: rules, tables: tables, others: others, queues: queues, brokers: brokers}
}

// Node is the name of the node whose Snapshot it is.
func (s *Snapshot) Node() string { return s.node }

// Broker is how the broker of another node is reached.
type Broker struct {
	Address string // host:port; "" if it is not known
	Apart   string // why it can't be reached from here, if that is known
	Beside  bool   // it is in one cluster with this node's broker
}

// Broker tells how the broker of another node is reached.
func (s *Snapshot) Broker(node string) Broker { return s.brokers[node] }

// Queue identifies a queue: one name in one vhost.
type Queue struct {
	VHost, Name string
}

// Standing is what a queue is as a shard.
type Standing uint8

const (
	NoShard Standing = iota
	InUse            // a node tells of it as a shard that takes messages
	Retired          // it takes none any more, and is read until it is empty
	Closing          // it was empty: who reads it through its stream is to leave it
)

// Standing tells what a queue is as a shard, of whatever node.
func (s *Snapshot) Standing(vhost, queue string) Standing { return s.queues[Queue{vhost, queue}] }

// Verdict is what a name is.
type Verdict uint8

const (
	Ordinary Verdict = iota // not a stream: it matches no policy, or is an exchange of another kind
	IsStream
	Absent  // it matches a policy, and lately there was no such exchange
	Unknown // it matches a policy, and the node has to be asked: it may be changing just now
)

// Passes tells whether what a client does with the name is none of our business,
// but for publishing to it as an exchange: an Absent one may be there meanwhile.
func (v Verdict) Passes() bool { return v == Ordinary || v == Absent }

// Find tells what name is in vhost; the table is there for IsStream only.
func (s *Snapshot) Find(vhost, name string) (*Table, Verdict) {
	n := Name{vhost, name}
	if v, known := s.others[n]; known {
		return nil, v
	}
	if t := s.tables[n]; t != nil {
		return t, IsStream
	}
	if _, match := s.rules.Match(vhost, name); match {
		return nil, Unknown
	}
	return nil, Ordinary
}

// Match finds the settings of a name that is or may become a stream.
func (s *Snapshot) Match(vhost, name string) (*Settings, bool) { return s.rules.Match(vhost, name) }

// Tables are all streams of all vhosts. Not to be changed.
func (s *Snapshot) Tables() map[Name]*Table { return s.tables }

// CheckName tells whether this node's shards of a stream can be named.
func (s *Snapshot) CheckName(settings *Settings, stream string) error {
	_, err := LocalQueues(settings, stream, s.node)
	return err
}
