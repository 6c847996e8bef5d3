package intercept

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"amqproxy/shard"
)

// simNode is a proxy with what internal/node does for the groups of streams, as little of it
// as that takes: it tells of its consumers in one fact, has shard.Group divide the shards,
// and tells its sessions. It hears of the others by gossip, which may be late, lost and cut
// off; what is lost comes with the next exchange of all facts.
type simNode struct {
	s        *sim
	i        int
	name     string
	up       bool
	frozen   bool
	stopping bool
	life     int
	backlog  []func() // what has come while it is frozen

	rule      shard.Group
	consumers map[uint64]*simMember
	last      uint64
	told      simFact
	facts     []simFact       // of all nodes, as it knows them
	heard     []time.Duration // when it has heard of each last; never before it was there
	due       bool            // regroup is about to be done
	parts     shard.Parts
	sessions  []*simSession

	shards []shard.Shard // that it knows of, to be read
	snap   *shard.Snapshot
	seats  map[string]int
}

// simFact is what a node tells of itself.
type simFact struct {
	version   uint64
	consumers []shard.Consumer
	stopping  bool
}

// simMember is one consumer of the group.
type simMember struct {
	shard.Consumer
	reads map[string]shard.Reading
}

const (
	simLost   = 5 * time.Second // silence that makes a node count as lost
	simNever  = -time.Hour
	simDivide = 250 * time.Millisecond
)

// do has something happen at a proxy: later, if it is frozen. Without one it just happens.
func (n *simNode) do(what func()) {
	if n != nil && n.frozen {
		n.backlog = append(n.backlog, what)
		return
	}
	what()
}

// later has something happen at a proxy, unless it ends before.
func (n *simNode) later(d time.Duration, what func()) {
	life := n.life
	n.s.in(d, func() {
		n.do(func() {
			if n.life == life && n.up {
				what()
			}
		})
	})
}

// every has something happen at a proxy again and again while it lives; not while it is
// frozen.
func (n *simNode) every(d time.Duration, what func()) {
	life := n.life
	var again func()
	again = func() {
		if n.life != life {
			return
		}
		if !n.frozen {
			what()
		}
		n.s.in(d, again)
	}
	n.s.in(n.s.upTo(d), again)
}

// start begins a proxy. It has exchanged facts before it takes clients.
func (n *simNode) start() {
	before := simFact{version: n.told.version, stopping: true} // whatever it told then is taken back
	s := n.s
	*n = simNode{s: s, i: n.i, name: n.name, up: true, life: n.life + 1, told: before,
		consumers: map[uint64]*simMember{}, seats: map[string]int{}, last: n.last, parts: shard.Parts{}}
	for range s.nodes {
		n.facts, n.heard = append(n.facts, simFact{}), append(n.heard, simNever)
	}
	s.trace("%s starts", n.name)
	for _, o := range s.nodes {
		if o != n && s.reach(n, o) {
			n.merge(o.all())
			n.heard[o.i], o.heard[n.i] = s.now, s.now
		}
	}
	n.learn()
	n.tell()
	n.every(500*time.Millisecond, n.tick)
	n.every(simDivide, n.regroup)
	n.every(time.Second, n.hello)
	n.every(5*time.Second, n.exchange)
}

// reach tells whether gossip gets from one node to another.
func (s *sim) reach(from, to *simNode) bool {
	return from.up && to.up && !to.frozen && !from.frozen && s.side[from.i] == s.side[to.i]
}

// gossip sends something to another node; it may be lost.
func (n *simNode) gossip(to *simNode, what func()) {
	s := n.s
	life := to.life
	if s.chance(.1) {
		return
	}
	late := s.lag()
	if s.chance(.05) {
		late = s.upTo(3 * time.Second)
	}
	s.in(late, func() {
		if to.life == life && s.reach(n, to) {
			what()
		}
	})
}

// hello tells all others that the node lives.
func (n *simNode) hello() {
	for _, o := range n.s.nodes {
		if o != n && n.s.reach(n, o) {
			n.gossip(o, func() { o.hears(n) })
		}
	}
}

func (n *simNode) hears(from *simNode) {
	was := n.heard[from.i]
	n.heard[from.i] = n.s.now
	if n.s.now-was >= simLost { // they have found each other
		n.s.trace("%s has %s back", n.name, from.name)
		n.merge(from.all())
		from.merge(n.all())
		n.soon()
	}
}

// exchange gives all facts to some node, and takes all that it has.
func (n *simNode) exchange() {
	o := n.s.nodes[n.s.rnd.IntN(len(n.s.nodes))]
	if o != n && n.s.reach(n, o) {
		n.merge(o.all())
		o.merge(n.all())
	}
}

func (n *simNode) all() []simFact {
	all := slices.Clone(n.facts)
	all[n.i] = n.told
	return all
}

func (n *simNode) merge(facts []simFact) {
	for i, f := range facts {
		if i != n.i && f.version > n.facts[i].version {
			n.facts[i] = f
			n.soon()
		}
	}
}

// tell tells all others what is new of this one's consumers.
func (n *simNode) tell() {
	now := simFact{n.told.version, n.list(), n.stopping}
	if reflect.DeepEqual(now, n.told) && now.version > 0 {
		return
	}
	now.version++
	n.told = now
	n.s.trace("%s tells: %+v", n.name, now)
	for _, o := range n.s.nodes {
		if o != n && n.s.reach(n, o) {
			n.gossip(o, func() {
				facts := make([]simFact, len(n.s.nodes))
				facts[n.i] = now
				o.merge(facts)
			})
		}
	}
}

func (n *simNode) list() (all []shard.Consumer) {
	for _, number := range sortedKeys(n.consumers) {
		k := n.consumers[number]
		told := k.Consumer
		for _, queue := range sortedKeys(k.reads) {
			told.Reads = append(told.Reads, k.reads[queue])
		}
		all = append(all, told)
	}
	return all
}

// known are the consumers of all nodes that live. Those of one that stops are leaving.
func (n *simNode) known() map[string][]shard.Consumer {
	all := map[string][]shard.Consumer{}
	for i, f := range n.all() {
		if i != n.i && n.s.now-n.heard[i] >= simLost {
			continue
		}
		consumers := slices.Clone(f.consumers)
		for k := range consumers {
			consumers[k].Leaving = consumers[k].Leaving || f.stopping
		}
		all[n.s.nodes[i].name] = consumers
	}
	return all
}

func (n *simNode) soon() {
	if n.due {
		return
	}
	n.due = true
	n.later(n.s.lag()/4, func() {
		n.due = false
		n.regroup()
	})
}

func (n *simNode) regroup() {
	n.tell()
	byID := n.rule.Divide(n.s.time(), n.name, n.shards, n.known(), n.s.ordered)
	parts := map[uint64]shard.Part{}
	for number, k := range n.consumers {
		parts[number] = shard.Part{Shards: byID[k.ID]}
	}
	if reflect.DeepEqual(parts, n.parts.Of) {
		return
	}
	n.parts = shard.Parts{Serial: n.parts.Serial + 1, Of: parts}
	n.s.trace("%s divides: %+v", n.name, parts)
	for _, se := range n.sessions {
		se.later(n.s.lag()/4, func() { se.follow(n.parts) })
	}
}

func (n *simNode) join(tag string) uint64 {
	n.last++
	n.consumers[n.last] = &simMember{reads: map[string]shard.Reading{},
		Consumer: shard.Consumer{ID: fmt.Sprintf("%x-%s-%d", n.s.rnd.Uint32(), n.name, n.last), Tag: tag}}
	n.soon()
	return n.last
}

func (n *simNode) left(number uint64) {
	if k := n.consumers[number]; k != nil {
		k.Leaving = true
		n.forget(number)
	}
	n.soon()
}

func (n *simNode) reads(r Reading) {
	k := n.consumers[r.Member]
	if k == nil {
		n.s.fail("%s is told of consumer %d, which it does not have: %+v", n.name, r.Member, r)
	}
	if k.reads[r.Queue] = r.Reading; r.Ended {
		delete(k.reads, r.Queue)
	}
	n.forget(r.Member)
	n.soon()
}

func (n *simNode) forget(number uint64) {
	if k := n.consumers[number]; k.Leaving && len(k.reads) == 0 {
		delete(n.consumers, number)
	}
}

func (n *simNode) tick() {
	for _, se := range slices.Clone(n.sessions) {
		se.tick()
	}
}

// learn has the node know of the shards as they are now.
func (n *simNode) learn() {
	s := n.s
	n.shards = nil
	standings := map[shard.Queue]shard.Standing{}
	for _, q := range s.shards {
		if q.gone {
			continue
		}
		standing := shard.InUse
		switch {
		case q.closing:
			standing = shard.Closing
		case q.retired:
			standing = shard.Retired
		}
		standings[shard.Queue{VHost: "/", Name: q.name}] = standing
		if !q.closing {
			n.shards = append(n.shards, shard.Shard{Queue: q.name, Node: q.b.name, Weight: 1, Local: q.b.name == n.name, Retired: q.retired, Single: q.single})
		}
	}
	name := shard.Name{VHost: "/", Stream: simStream}
	settings, _ := s.rules.Match("/", simStream)
	table := shard.NewTable("/", simStream, settings, shard.Declared{Type: "direct", Durable: true}, n.shards, s.counters)
	brokers := map[string]shard.Broker{}
	for _, o := range s.nodes {
		if o != n {
			brokers[o.name] = shard.Broker{Address: o.name + ":5672", Beside: s.cluster}
		}
	}
	n.snap = shard.NewSnapshot(n.name, s.rules, map[shard.Name]*shard.Table{name: table}, map[shard.Name]shard.Verdict{}, standings, brokers)
	n.soon()
}
