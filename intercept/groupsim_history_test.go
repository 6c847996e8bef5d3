package intercept

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"amqproxy/shard"
)

// simWorld is what there is.
type simWorld struct {
	nodes      []*simNode
	brokers    []*simBroker
	shards     []*simQueue
	side       []int // of the split, by node
	rules      *shard.Rules
	counters   *shard.Counters
	deliveries []*simDelivery
	messages   []*simMessage
	sessions   int
}

// simHistory is what a history is like.
type simHistory struct {
	ordered  bool
	cluster  bool // the brokers are one, each leads to all queues
	far      bool // and from a node only its own can be reached
	plain    float64
	gets     float64
	handover time.Duration
	inOrder  bool // nothing is got past the group
	faults   []simFault

	excused time.Duration // until then proxies may not know what others do
	resting bool          // nothing goes wrong any more
	owned   string        // who has which shard
	moved   time.Duration // when that was new

	lastEvent time.Duration // a shard that closes is one too
	restsFrom time.Duration
}

// happens goes through a history.
func (s *sim) happens() {
	s.begins()
	s.counts.histories++
	if s.counts.faults == nil {
		s.counts.faults = map[string]int{}
	}
	end := 3*time.Second + s.upTo(20*time.Second)
	for s.now < end {
		s.run(s.now + s.upTo(1500*time.Millisecond))
		f := s.faults[s.rnd.IntN(len(s.faults))]
		if f.do(s) {
			s.counts.faults[f.name]++
		}
		s.empties()
	}
	s.rests()
	s.ends()
	s.counts.sessions += s.sessions
	s.counts.messages += len(s.messages)
}

// begins makes the world.
func (s *sim) begins() {
	s.ordered, s.cluster, s.far = s.chance(.6), s.chance(.3), s.chance(.3)
	s.handover = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}[s.rnd.IntN(3)]
	if s.chance(.3) {
		s.plain = .3
	}
	if s.chance(.3) || !s.ordered {
		s.gets = .3
	}
	s.inOrder = s.ordered && s.gets == 0
	s.faults = slices.Clone(always)
	for _, f := range simFaults {
		if s.chance(.25) {
			s.faults = append(s.faults, f)
		}
	}
	consumers := shard.ConsumeBalanced
	if s.ordered {
		consumers = shard.ConsumeOrdered
	}
	s.counters = &shard.Counters{}
	s.rules = shard.NewRules(shard.Parameters{}, map[string]shard.Definition{"d": {Consumers: consumers}},
		[]shard.Policy{{Name: "p", Pattern: regexp.MustCompile(`^shard\.`), VHost: "*", Definition: "d"}})
	n := []int{1, 2, 3, 3, 3, 3, 4}[s.rnd.IntN(7)]
	s.side = make([]int, n)
	for i := range n {
		name := fmt.Sprint("n", i+1)
		b := &simBroker{s: s, name: name, up: true, queues: map[string]*simQueue{}}
		b.queues[simPlain+name] = &simQueue{b: b, name: simPlain + name}
		s.brokers = append(s.brokers, b)
		s.nodes = append(s.nodes, &simNode{s: s, i: i, name: name})
	}
	each := 1 + s.rnd.IntN(3)
	for _, b := range s.brokers {
		for range each {
			s.addShard(b)
		}
	}
	for _, n := range s.nodes {
		n.start()
	}
	s.joins()
	s.publishes()
	s.trace("ordered %v, one cluster %v, reached only through one's own broker %v, %d nodes, %d shards, handover-timeout %v", s.ordered, s.cluster, s.far, n, len(s.shards), s.handover)
}

func (s *sim) addShard(b *simBroker) {
	q := &simQueue{b: b, name: fmt.Sprintf("v %s %d", b.name, len(s.shards)), shard: true, single: s.ordered && s.chance(.7)}
	for i := range 2 {
		q.keys = append(q.keys, &simKey{q: q, name: fmt.Sprintf("key %d of %s", i, q.name)})
	}
	b.queues[q.name] = q
	s.shards = append(s.shards, q)
	s.trace("%s is there", q.name)
}

// spread lets all nodes learn what is new of the shards.
func (s *sim) spread() {
	for _, n := range s.nodes {
		n.later(s.upTo(time.Second), n.learn)
	}
}

// publishes goes on with publishing, to any key.
func (s *sim) publishes() {
	s.in(s.upTo(400*time.Millisecond), func() {
		if s.resting {
			return
		}
		for range 1 + s.rnd.IntN(4) {
			b := s.brokers[s.rnd.IntN(len(s.brokers))]
			if s.chance(.1) {
				b.queues[simPlain+b.name].push(nil)
			}
			q := s.shards[s.rnd.IntN(len(s.shards))]
			if !q.retired && q.b.up {
				q.push(q.keys[s.rnd.IntN(len(q.keys))])
			}
		}
		s.publishes()
	})
}

// empties closes shards that have retired and are empty, and deletes those that nobody has.
func (s *sim) empties() {
	for _, q := range s.shards {
		idle := q.retired && !q.gone && q.b.up && !slices.ContainsFunc(s.messages, func(m *simMessage) bool { return m.q == q && !m.done })
		switch {
		case idle && !q.closing:
			s.trace("%s closes", q.name)
			q.closing, s.lastEvent = true, s.now
			s.spread()
		case idle && len(q.consumers) == 0 && !slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.seats[q.name] > 0 }):
			s.trace("%s is deleted", q.name)
			q.gone = true
			delete(q.b.queues, q.name)
			s.spread()
		}
	}
}
