package intercept

import (
	"slices"
	"time"
)

// simFault is something that happens to the world; it tells whether it could.
type simFault struct {
	name string
	do   func(*sim) bool
}

// always are what happens in every history, simFaults what happens in some.
var (
	always    = []simFault{{"join", (*sim).joins}, {"join", (*sim).joins}, {"leave", (*sim).leaves}, {"client crash", (*sim).clientCrashes}}
	simFaults = []simFault{
		{"split", (*sim).splits}, {"freeze", (*sim).freezes}, {"proxy crash", (*sim).proxyCrashes}, {"proxy stop", (*sim).proxyStops},
		{"broker crash", (*sim).brokerCrashes}, {"link lost", (*sim).losesLink}, {"shard added", (*sim).addsShard}, {"shard retired", (*sim).retiresShard},
	}
)

// mends has something happen later that ends a fault, unless all has come to rest before.
func (s *sim) mends(d time.Duration, what func()) {
	s.in(d, func() {
		if !s.resting {
			what()
		}
	})
}

// pick is a random one of those that are fit; nil if none is.
func pick[T any](s *sim, all []*T, fit func(*T) bool) *T {
	var some []*T
	for _, v := range all {
		if fit(v) {
			some = append(some, v)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[s.rnd.IntN(len(some))]
}

func (n *simNode) serves() bool {
	return n.up && !n.frozen && !n.stopping && n.s.brokers[n.i].up
}

func (s *sim) joins() bool {
	n := pick(s, s.nodes, (*simNode).serves)
	if n == nil || len(s.allSessions()) >= 8 {
		return false
	}
	s.newSession(n)
	return true
}

func (s *sim) allSessions() (all []*simSession) {
	for _, n := range s.nodes {
		all = append(all, n.sessions...)
	}
	return all
}

func (s *sim) aClient() *simClient {
	se := pick(s, s.allSessions(), func(se *simSession) bool { return !se.client.dead && !se.client.ending })
	if se == nil {
		return nil
	}
	return se.client
}

func (s *sim) leaves() bool {
	c := s.aClient()
	if c != nil {
		c.leave()
	}
	return c != nil
}

func (s *sim) clientCrashes() bool {
	c := s.aClient()
	if c != nil {
		c.crash()
	}
	return c != nil
}

func (s *sim) splits() bool {
	for i := range s.side {
		s.side[i] = s.rnd.IntN(2)
	}
	s.trace("the proxies are split: %v", s.side)
	s.disturbed(s.now + time.Hour)
	s.mends(s.upTo(12*time.Second), s.heals)
	return true
}

// heals lets all proxies hear of each other again. That takes some time, and then to give
// back what another has takes some.
func (s *sim) heals() {
	s.trace("the split is over")
	clear(s.side)
	s.excused = 0
	s.disturbed(s.now + simLost + s.handover + 8*time.Second)
	for _, n := range s.nodes {
		if n.frozen {
			s.disturbed(s.now + time.Hour)
		}
	}
}

func (s *sim) freezes() bool {
	n := pick(s, s.nodes, (*simNode).serves)
	if n == nil {
		return false
	}
	s.trace("%s freezes", n.name)
	n.frozen = true
	s.disturbed(s.now + time.Hour)
	life := n.life
	for _, b := range s.brokers {
		for _, k := range slices.Clone(b.conns) {
			if k.se.node == n {
				s.in(10*time.Second+s.upTo(5*time.Second), func() {
					if n.frozen && n.life == life {
						k.end(packet{turn: -1})
					}
				})
			}
		}
	}
	s.mends(s.upTo(25*time.Second), n.thaws)
	return true
}

func (n *simNode) thaws() {
	if !n.frozen {
		return
	}
	s := n.s
	s.trace("%s thaws", n.name)
	n.frozen = false
	if s.chance(.5) { // it may think that all others have been silent, or that no time has passed
		for i := range n.heard {
			n.heard[i] = max(n.heard[i], s.now)
		}
	}
	backlog := n.backlog
	n.backlog = nil
	for _, what := range backlog {
		what()
	}
	if !slices.ContainsFunc(s.nodes, func(o *simNode) bool { return o.frozen }) && !slices.Contains(s.side, 1) {
		s.heals()
	}
}

func (s *sim) proxyCrashes() bool {
	n := pick(s, s.nodes, func(n *simNode) bool { return n.up })
	if n == nil {
		return false
	}
	n.crash()
	return true
}

func (n *simNode) crash() {
	s := n.s
	s.trace("%s crashes", n.name)
	n.frozen, n.up, n.backlog = false, false, nil
	n.life++
	for _, se := range slices.Clone(n.sessions) {
		se.end(true)
	}
	s.disturbed(s.now + simLost + s.handover + 8*time.Second)
	s.mends(s.upTo(10*time.Second), n.restart)
}

func (n *simNode) restart() {
	if !n.up {
		n.start()
	}
}

// proxyStops stops a proxy in order: it gives back what its clients have, and then ends.
func (s *sim) proxyStops() bool {
	n := pick(s, s.nodes, (*simNode).serves)
	if n == nil {
		return false
	}
	s.trace("%s stops", n.name)
	n.stopping = true
	n.soon()
	n.later(s.upTo(s.handover+time.Second), func() {
		for _, se := range slices.Clone(n.sessions) {
			n.later(s.lag(), func() { se.end(false) })
		}
	})
	life := n.life
	s.mends(s.handover+2*time.Second, func() {
		if n.life == life {
			n.crash()
		}
	})
	return true
}

func (s *sim) brokerCrashes() bool {
	b := pick(s, s.brokers, func(b *simBroker) bool { return b.up })
	if b == nil {
		return false
	}
	b.crash()
	s.mends(s.upTo(10*time.Second), b.restart)
	return true
}

func (s *sim) losesLink() bool {
	se := pick(s, s.allSessions(), func(se *simSession) bool { return len(se.links) > 0 && !se.node.frozen })
	if se == nil {
		return false
	}
	k := pick(s, se.links, func(k *simConn) bool { return k != nil && k.open })
	if k == nil {
		return false
	}
	k.end(packet{turn: -1})
	return true
}

func (s *sim) addsShard() bool {
	if len(s.shards) > 12 {
		return false
	}
	s.addShard(s.brokers[s.rnd.IntN(len(s.brokers))])
	s.spread()
	return true
}

// retiresShard retires a shard: it is read until it is empty, then left, then deleted.
func (s *sim) retiresShard() bool {
	in := 0
	for _, q := range s.shards {
		if !q.retired {
			in++
		}
	}
	q := pick(s, s.shards, func(q *simQueue) bool { return !q.retired })
	if in < 2 {
		return false
	}
	s.trace("%s retires", q.name)
	q.retired = true
	s.spread()
	return true
}

// apart tells whether a node can't reach another's broker by itself.
func (s *sim) apart(n *simNode, b *simBroker) bool { return s.cluster && n.name != b.name && s.far }
