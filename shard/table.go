package shard

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Shard is one queue of a stream.
type Shard struct {
	Queue   string
	Node    string
	Index   int
	Weight  uint32
	Local   bool // made by this node, on its broker
	Retired bool // it takes no messages any more, and is read until it is empty
	Quorum  bool // a quorum queue: other brokers serve it when its own is down
	Single  bool // a queue that serves one of its consumers at a time
}

// Declared is what the first declare of a stream asked for. It is kept, because
// the exchange underneath is always a durable direct one and can't be asked.
type Declared struct {
	Type    string `json:"type"` // the exchange type as asked; "" when adopted: any partitioning type fits
	Durable bool   `json:"durable"`
	HashOn  HashOn `json:"-"` // as asked; Source is HashUnset if it was not
}

// Table is where the shards of one stream are. Immutable.
type Table struct {
	Stream   string
	VHost    string
	Settings *Settings
	Declared Declared
	Shards   []Shard // that take messages, by queue name
	Counters *Counters

	random  bool
	byKey   bool // see ByRoutingKey
	equal   bool // all weights are the same
	seeds   []uint64
	nodes   []string // whose shards take messages
	nodeOf  []uint16 // by shard
	entries [][]byte // see BCC
	sources []string
	all     []Shard // retired ones among them
}

// NewTable makes a table of shards, which may come in any order.
func NewTable(vhost, stream string, s *Settings, d Declared, shards []Shard, c *Counters) *Table {
	t := &Table{
		Stream: stream, VHost: vhost, Settings: s, Declared: d, Counters: c,
		random: d.Type == "x-random",
		equal:  true,
	}
	t.byKey = !t.random && t.HashOn().Source == HashRoutingKey
	for _, sh := range slices.SortedFunc(slices.Values(shards), func(a, b Shard) int { return cmp.Compare(a.Queue, b.Queue) }) {
		t.all = append(t.all, sh)
		if sh.Local {
			t.sources = append(t.sources, sh.Queue)
		}
		if sh.Retired || s.HashLocal && !sh.Local {
			continue
		}
		t.Shards = append(t.Shards, sh)
		t.seeds = append(t.seeds, seed(sh.Queue))
		t.nodeOf = append(t.nodeOf, t.node(sh.Node))
		t.entries = append(t.entries, bccItem(BindingKey(sh.Queue)))
		t.equal = t.equal && sh.Weight == t.Shards[0].Weight
	}
	return t
}

// node is the index of a node in nodes.
func (t *Table) node(name string) uint16 {
	i := slices.Index(t.nodes, name)
	if i < 0 {
		i = len(t.nodes)
		t.nodes = append(t.nodes, name)
	}
	return uint16(i)
}

// Nodes are the nodes whose shards take messages. Not to be changed.
func (t *Table) Nodes() []string { return t.nodes }

// NodeOf is the index in Nodes of shard i's node.
func (t *Table) NodeOf(i int) int { return int(t.nodeOf[i]) }

// bccItem is a long string as an item of a header's array.
func bccItem(key string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'S'}, uint32(len(key)))
	return append(b, key...)
}

// Pick gives the shard for a key with this hash; -1 when the stream has none.
func (t *Table) Pick(keyHash uint64) int {
	if !t.equal {
		return t.pickWeighted(keyHash)
	}
	best, top := uint64(0), uint64(0)
	for i, s := range t.seeds {
		u := mix(keyHash ^ s)
		// Without a branch, for no processor can foresee which shard is the best.
		_, higher := bits.Sub64(top, u, 0)
		best ^= (best ^ uint64(i)) & -higher
		top = max(top, u)
	}
	return min(int(best), len(t.seeds)-1)
}

// pickWeighted compares log/weight by cross multiplication: 38 bits by 20 fit.
func (t *Table) pickWeighted(keyHash uint64) int {
	best, bestU, bestLog, bestWeight := -1, uint64(0), uint64(0), uint64(1)
	for i, s := range t.seeds {
		u := mix(keyHash ^ s)
		log, weight := negLog(u), uint64(t.Shards[i].Weight)
		a, b := log*bestWeight, bestLog*weight
		if best < 0 || a < b || a == b && u > bestU {
			best, bestU, bestLog, bestWeight = i, u, log, weight
		}
	}
	return best
}

// PickBut is Pick among the shards that skip does not name; -1 if none is left.
func (t *Table) PickBut(keyHash uint64, skip func(i int) bool) int {
	best, bestU, bestLog, bestWeight := -1, uint64(0), uint64(0), uint64(1)
	for i, s := range t.seeds {
		if skip(i) {
			continue
		}
		u := mix(keyHash ^ s)
		log, weight := negLog(u), uint64(t.Shards[i].Weight)
		if t.equal {
			log, weight = 0, 1
		}
		a, b := log*bestWeight, bestLog*weight
		if best < 0 || a < b || a == b && u > bestU {
			best, bestU, bestLog, bestWeight = i, u, log, weight
		}
	}
	return best
}

// ID tells shard i from the others of all tables, as far as 32 bits can.
func (t *Table) ID(i int) uint32 { return uint32(t.seeds[i]) }

// BCC is the item for the BCC array that sends a message to shard i: type octet,
// length and binding key. Not to be changed.
func (t *Table) BCC(i int) []byte { return t.entries[i] }

// Sources are the queues that this node's clients read: its own shards, retired
// ones among them. Not to be changed.
func (t *Table) Sources() []string { return t.sources }

// All are the shards of all nodes, retired ones among them. Not to be changed.
func (t *Table) All() []Shard { return t.all }

// Random tells that messages go anywhere, by no key; ByRoutingKey that it is the
// routing key which they go by.
func (t *Table) Random() bool       { return t.random }
func (t *Table) ByRoutingKey() bool { return t.byKey }

// HashOn is what the stream hashes on: the definition's word, or else that of
// the first declare, or else the routing key.
func (t *Table) HashOn() HashOn {
	switch {
	case t.Settings.HashOn.Source != HashUnset:
		return t.Settings.HashOn
	case t.Declared.HashOn.Source != HashUnset:
		return t.Declared.HashOn
	}
	return HashOn{Source: HashRoutingKey}
}

// PartitioningTypes are the exchange types that a stream may be declared with.
const PartitioningTypes = "direct, topic, x-consistent-hash, x-modulus-hash, x-random"

// Partitions tells whether an exchange type is one of PartitioningTypes.
func Partitions(kind string) bool {
	return kind != "" && slices.Contains(strings.Split(PartitioningTypes, ", "), kind)
}

// Equivalent tells how a later declare differs from the first, in RabbitMQ's
// words; nil when it does not. Of an adopted stream nothing is known to differ.
func (t *Table) Equivalent(asked Declared) error {
	d, on := t.Declared, t.HashOn()
	differs := func(arg, received, current string) error {
		return fmt.Errorf("inequivalent arg '%s' for exchange '%s' in vhost '%s': received '%s' but current is '%s'", arg, t.Stream, t.VHost, received, current)
	}
	switch {
	case d.Type == "":
		return nil
	case asked.Type != d.Type:
		return differs("type", asked.Type, d.Type)
	case asked.Durable != d.Durable:
		return differs("durable", strconv.FormatBool(asked.Durable), strconv.FormatBool(d.Durable))
	case asked.HashOn.Source != HashUnset && asked.HashOn != on:
		return differs("hash-on", asked.HashOn.String(), on.String())
	}
	return nil
}

// Digest is a short text that is equal for tables that send every key to the
// same queue.
func (t *Table) Digest() string {
	d := xxhash.New()
	for _, s := range t.Shards {
		fmt.Fprintf(d, "%q %d\n", s.Queue, s.Weight)
	}
	return fmt.Sprintf("%016x", d.Sum64())
}
