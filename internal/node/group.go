package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"amqproxy/membership"
	"amqproxy/shard"
)

// group is what this node has of the group of a stream: the consumers that are connected
// here. Guarded by Node.mu.
type group struct {
	toldAt    time.Time // zero if there is something new to tell
	rule      shard.Group
	consumers map[uint64]*consumer // by this node's numbers
}

type consumer struct {
	shard.Consumer
	reads   map[string]shard.Reading
	handing map[string]time.Time // since when it gives a shard back
	barred  map[string]time.Time // when there was no way to a shard's broker
}

// barredFor is how long a consumer whose proxy could not reach a shard's broker is not asked to
// read it, if somebody else can.
const barredFor = time.Minute

// consumersFact is what a node tells of its consumers of one stream.
type consumersFact struct {
	Consumers []shard.Consumer `json:"consumers"`
}

func consumersKey(n shard.Name, node string) string { return nodesKey("consumers", n, node) }

// Transient tells which facts hold for running proxies only, and are not to be remembered.
func Transient(key string) bool {
	kind, _, _, ok := parseKey(key)
	return ok && kind == "consumers"
}

// Join makes a client's consumer one of the group of a stream. It is told what to read by
// Parts, under the number that Join gives it, until Left.
func (n *Node) Join(_ context.Context, name shard.Name, client, tag string, exclusive bool) (number uint64, err error) {
	if _, err := n.find(name); err != nil {
		return 0, err
	}
	k := &consumer{reads: map[string]shard.Reading{}, handing: map[string]time.Time{}, barred: map[string]time.Time{},
		Consumer: shard.Consumer{ID: rand.Text(), Tag: tag, Client: client, Exclusive: exclusive, Joined: time.Now().UnixMilli()}}
	n.mu.Lock()
	if n.taken(name, exclusive) {
		n.mu.Unlock()
		return 0, inUse(name)
	}
	g := n.groups[name]
	if g == nil {
		g = &group{consumers: map[uint64]*consumer{}}
		n.groups[name] = g
	}
	n.lastConsumer++
	number = n.lastConsumer
	g.consumers[number], n.groupOf[number] = k, name
	g.toldAt = time.Time{}
	n.mu.Unlock()
	n.regroupSoon()
	if !exclusive {
		return number, nil
	}
	// Somebody may come at the same moment at another node. If we hear of that now, it is still
	// a refusal; later it is a cancel.
	n.regroup(time.Now())
	n.cluster.Flush()
	n.mu.Lock()
	lost := loses(n.consumersOf(n.cluster.State(), name), k.ID)
	n.mu.Unlock()
	if lost {
		n.Left(number)
		return 0, inUse(name)
	}
	return number, nil
}

func inUse(name shard.Name) error {
	return &shard.Refused{Code: accessRefused, Text: fmt.Sprintf("queue '%s' in vhost '%s' in exclusive use", name.Stream, name.VHost)}
}

// taken tells whether a consumer can't join because it or another wants to be alone. n.mu is
// held.
func (n *Node) taken(name shard.Name, exclusive bool) bool {
	for _, all := range n.consumersOf(n.cluster.State(), name) {
		for _, other := range all {
			if !other.Leaving && (exclusive || other.Exclusive) {
				return true
			}
		}
	}
	return false
}

// loses tells whether a consumer has to go since one that came before it wants to be alone, or
// it does itself: when two nodes have not heard of each other's in time. All nodes come to the
// same.
func loses(consumers map[string][]shard.Consumer, id string) bool {
	var all []shard.Consumer
	for _, k := range consumers {
		all = append(all, k...)
	}
	all = slices.DeleteFunc(all, func(k shard.Consumer) bool { return k.Leaving })
	if !slices.ContainsFunc(all, func(k shard.Consumer) bool { return k.Exclusive }) {
		return false
	}
	first := slices.MinFunc(all, func(a, b shard.Consumer) int {
		return cmp.Or(cmp.Compare(a.Joined, b.Joined), cmp.Compare(a.ID, b.ID))
	})
	at := slices.IndexFunc(all, func(k shard.Consumer) bool { return k.ID == id })
	return at >= 0 && id != first.ID && (first.Exclusive || all[at].Exclusive)
}

// Left says that a consumer is none any more. What it has of shards it gives back one by one.
func (n *Node) Left(number uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.groups[n.groupOf[number]]; g != nil && g.consumers[number] != nil {
		g.consumers[number].Leaving = true
		g.toldAt = time.Time{}
		n.forgetConsumer(number)
	}
	n.regroupSoon()
}

// Reads says what a consumer is at with a shard; ended: it has given it back.
func (n *Node) Reads(number uint64, r shard.Reading, ended bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.groups[n.groupOf[number]]
	if g == nil || g.consumers[number] == nil {
		return
	}
	k := g.consumers[number]
	if since, handing := k.handing[r.Queue]; ended && handing {
		n.handed.note(time.Since(since))
		delete(k.handing, r.Queue)
	} else if !handing && r.State == shard.Handing {
		k.handing[r.Queue] = time.Now()
	}
	if r.State == shard.Barred && !ended {
		k.barred[r.Queue] = time.Now()
	}
	before, had := k.reads[r.Queue]
	if k.reads[r.Queue] = r; ended {
		delete(k.reads, r.Queue)
	}
	if had && !ended && before.State == r.State {
		return // only the count is new: it is told along with other things, or after a while
	}
	g.toldAt = time.Time{}
	n.forgetConsumer(number)
	n.regroupSoon()
}

// Sit says that a consumer of a group has to do with a shard, until Leave.
func (n *Node) Sit(vhost, queue string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seats[shard.Queue{VHost: vhost, Name: queue}]++
}

// forgetConsumer forgets one that is none any more and has nothing. n.mu is held.
func (n *Node) forgetConsumer(number uint64) {
	g := n.groups[n.groupOf[number]]
	if k := g.consumers[number]; k.Leaving && len(k.reads) == 0 {
		delete(g.consumers, number)
		delete(n.groupOf, number)
	}
}

// Parts are what this node's consumers are to read; news is closed when there are new ones.
func (n *Node) Parts() (parts shard.Parts, news <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.shares, n.partsNews
}

func (n *Node) regroupSoon() {
	select {
	case n.regroups <- struct{}{}:
	default:
	}
}

// regroup tells all of this node's consumers, and finds what they are to read.
func (n *Node) regroup(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellConsumers(now)
	n.noteDown(now)
	st := n.cluster.State()
	maps.DeleteFunc(n.heard, func(key string, _ heard) bool { f, known := st.Facts[key]; return !known || f.Deleted() })
	parts := map[uint64]shard.Part{}
	for name, g := range n.groups {
		s := n.streams[name]
		if s == nil || s.state == Destroyed || s.settings.Consumers == shard.ConsumeLocal {
			for number := range g.consumers {
				parts[number] = shard.Part{Gone: true}
			}
			continue
		}
		all := n.consumersOf(st, name)
		byID := g.rule.Divide(now, n.cfg.Name, n.within(now, s.everywhere()), all, s.settings.Consumers == shard.ConsumeOrdered)
		for number, k := range g.consumers {
			parts[number] = shard.Part{Shards: byID[k.ID], Gone: loses(all, k.ID)}
		}
	}
	if !reflect.DeepEqual(parts, n.shares.Of) {
		n.shares = shard.Parts{Serial: n.shares.Serial + 1, Of: parts}
		close(n.partsNews)
		n.partsNews = make(chan struct{})
	}
}

// everywhere are the shards of all nodes that are to be read. Node.mu is held.
func (s *stream) everywhere() (all []shard.Shard) {
	for _, shards := range s.place.shards {
		all = append(all, shards...)
	}
	for node, retired := range s.place.retired {
		for _, r := range retired {
			if r.Closing == "" {
				all = append(all, shard.Shard{Queue: r.Queue, Node: node, Local: node == s.node, Retired: true, Quorum: r.Quorum, Single: r.Single})
			}
		}
	}
	slices.SortFunc(all, func(a, b shard.Shard) int { return cmp.Compare(a.Queue, b.Queue) })
	return all
}

// noteDown notes since when brokers are down. n.mu is held.
func (n *Node) noteDown(now time.Time) {
	for node, m := range n.members {
		_, known := n.downSince[node]
		switch down := m.condition == BrokerDown || m.presence == membership.Lost && n.dead[node]; {
		case !down:
			delete(n.downSince, node)
		case !known:
			n.downSince[node] = now
		}
	}
}

// within leaves out the shards of brokers that have been down for longer than the grace: they
// are no part of what there is to be shared out. For less nothing is moved. Other brokers of
// a cluster serve quorum shards. n.mu is held.
func (n *Node) within(now time.Time, shards []shard.Shard) []shard.Shard {
	return slices.DeleteFunc(shards, func(s shard.Shard) bool {
		since, down := n.downSince[s.Node]
		return down && !s.Quorum && now.Sub(since) > n.cfg.LostGrace
	})
}

// tellConsumers tells of the consumers here, and takes back what was told before a restart.
// n.mu is held.
func (n *Node) tellConsumers(now time.Time) {
	for key := range n.cluster.State().Facts {
		if !strings.HasPrefix(key, "consumers/") {
			continue
		}
		if _, name, node, ok := parseKey(key); ok && node == n.cfg.Name && n.groups[name] == nil {
			n.set(key, nil)
		}
	}
	for name, g := range n.groups {
		g.forgive(now)
		if len(g.consumers) == 0 {
			n.set(consumersKey(name, n.cfg.Name), nil)
			delete(n.groups, name)
			continue
		}
		if now.Sub(g.toldAt) > countsEvery {
			g.toldAt = now
			n.set(consumersKey(name, n.cfg.Name), consumersFact{g.list()})
		}
	}
}

// forgive has consumers tried again on shards that their proxy could not reach.
func (g *group) forgive(now time.Time) {
	for _, k := range g.consumers {
		for queue, at := range k.barred {
			if _, tries := k.reads[queue]; now.Sub(at) > barredFor && !tries {
				delete(k.barred, queue)
				g.toldAt = time.Time{}
			}
		}
	}
}

// countsEvery is how often the numbers of messages that consumers have are told.
const countsEvery = 5 * time.Second

// list are the consumers in the order in which they came, as they are told of.
func (g *group) list() (all []shard.Consumer) {
	for _, number := range slices.Sorted(maps.Keys(g.consumers)) {
		k := g.consumers[number]
		told := k.Consumer
		for _, queue := range slices.Sorted(maps.Keys(k.reads)) {
			told.Reads = append(told.Reads, k.reads[queue])
		}
		told.Unreached = slices.Sorted(maps.Keys(k.barred))
		all = append(all, told)
	}
	return all
}

// consumersOf are the consumers of a stream by the nodes that live. Those of a node that is
// about to end are leaving. n.mu is held.
func (n *Node) consumersOf(st *membership.State, name shard.Name) map[string][]shard.Consumer {
	all := map[string][]shard.Consumer{}
	for node, m := range n.members {
		if node != n.cfg.Name && m.presence == membership.Alive {
			all[node] = leavingIf(m.condition == Stopping, n.factOf(st, consumersKey(name, node)))
		}
	}
	if g := n.groups[name]; g != nil {
		all[n.cfg.Name] = leavingIf(n.condition == Stopping, g.list())
	}
	return all
}

func leavingIf(stops bool, consumers []shard.Consumer) []shard.Consumer {
	if !stops {
		return consumers
	}
	consumers = slices.Clone(consumers)
	for i := range consumers {
		consumers[i].Leaving = true
	}
	return consumers
}

// factOf reads a consumersFact, which may be long, once for each of its versions. n.mu is
// held.
func (n *Node) factOf(st *membership.State, key string) []shard.Consumer {
	f, known := st.Facts[key]
	if !known || f.Deleted() {
		delete(n.heard, key)
		return nil
	}
	h := n.heard[key]
	if h.version != f.Version || h.owner != f.Owner {
		var fact consumersFact
		if json.Unmarshal(f.Value, &fact) != nil {
			return nil
		}
		h = heard{f.Version, f.Owner, fact.Consumers}
		n.heard[key] = h
	}
	return h.consumers
}

type heard struct {
	version   uint64
	owner     string
	consumers []shard.Consumer
}
