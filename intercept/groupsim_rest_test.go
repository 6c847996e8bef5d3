package intercept

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// simRest is how long it may take until all shards are where they stay.
const simRest = 20 * time.Second

// rests lets everything heal, and waits until all shards are where they stay and all
// messages are settled.
func (s *sim) rests() {
	s.trace("all is to come to rest")
	s.resting, s.restsFrom = true, s.now
	s.mendAll()
	s.run(s.now + 5*time.Second) // connections end that were about to
	s.needsReader()
	s.run(s.now + time.Second)
	s.lastEvent = s.now
	most := s.now + 90*time.Second // for the messages
	for s.now < s.lastEvent+simRest+5*time.Second || !s.allDone() && s.now < most {
		s.run(s.now + 250*time.Millisecond)
		s.empties()
		switch now := s.owners(); {
		case now == s.owned:
		case s.now-s.lastEvent < simRest:
			s.owned, s.moved = now, s.now
		default:
			s.fail("%v after the last event shards still move: it was %s, and now it is %s", s.now-s.lastEvent, s.owned, now)
		}
	}
	if rest := s.moved - s.lastEvent; rest > s.counts.rest {
		s.counts.rest, s.counts.restSeed = rest, s.seed
	}
	s.checkRest()
}

func (s *sim) mendAll() {
	if s.excused > s.now+time.Minute {
		s.heals()
	}
	for i, n := range s.nodes {
		if n.stopping {
			n.crash()
		}
		n.thaws()
		s.brokers[i].restart()
		n.restart()
	}
}

// needsReader makes a consumer, if there is none.
func (s *sim) needsReader() {
	for _, n := range s.nodes {
		for _, k := range n.consumers {
			if !k.Leaving {
				return
			}
		}
	}
	s.newSession(s.nodes[0]).client.keen = true
}

func (s *sim) allDone() bool {
	return !slices.ContainsFunc(s.messages, func(m *simMessage) bool { return m.key != nil && !m.done })
}

// owners is who consumes what.
func (s *sim) owners() string {
	var all []string
	for _, q := range s.shards {
		if q.closing {
			continue
		}
		var who []string
		for _, c := range q.consumers {
			who = append(who, c.owner())
		}
		slices.Sort(who)
		all = append(all, q.name+": "+strings.Join(who, " and "))
	}
	return strings.Join(all, ", ")
}

func (c *simConsumer) owner() string { return fmt.Sprintf("%s/%d", c.ch.k.se, c.member) }

// checkRest checks what must hold when nothing has happened for long.
func (s *sim) checkRest() {
	for _, m := range s.messages {
		if m.key != nil && !m.done {
			s.fail("message %d of %s is not settled; its last delivery is %v", m.n, m.key.name, m.last)
		}
	}
	loads := map[string]int{}
	for _, n := range s.nodes {
		for _, number := range sortedKeys(n.consumers) {
			k := n.consumers[number]
			if k.Leaving {
				s.fail("%s: consumer %d has left, and still reads %v", n.name, number, k.reads)
			}
			for _, se := range n.sessions {
				if se.conn.members[number] != nil {
					loads[fmt.Sprintf("%s/%d", se, number)] = 0
				}
			}
		}
	}
	least, most := len(loads), 0
	for _, q := range s.shards {
		switch {
		case q.gone:
			continue
		case q.retired:
			s.fail("%s has retired and is empty, and is not gone", q.name)
		case len(q.consumers) == 0 || s.ordered && len(q.consumers) > 1:
			s.fail("%s has %d consumers", q.name, len(q.consumers))
		}
		least, most = min(least, len(q.consumers)), max(most, len(q.consumers))
		for _, c := range q.consumers {
			if _, known := loads[c.owner()]; !known {
				s.fail("%s reads %s for nobody", c.owner(), q.name)
			}
			loads[c.owner()]++
			s.checkReader(c)
		}
	}
	if most > least+1 {
		s.fail("some shards have %d consumers, others %d", most, least)
	}
	s.checkLoads(loads)
	for _, se := range s.allSessions() {
		se.checkChannels()
	}
}

func (s *sim) checkLoads(loads map[string]int) {
	least, most := len(s.shards), 0
	for _, n := range loads {
		least, most = min(least, n), max(most, n)
	}
	if most > least+1 || len(loads) > 0 && least == 0 && !s.ordered {
		s.fail("some consumers have %d shards, others %d: %v", most, least, loads)
	}
}

// checkReader: the broker has of a reader what its Conn thinks.
func (s *sim) checkReader(c *simConsumer) {
	r := c.ch.k.se.conn.links[c.ch.k.link].reader(c.ch.n)
	switch {
	case r.stage != readerReading || r.leaving:
		s.fail("%s reads %s, and for its Conn it is at stage %d, leaves: %v", c, c.q.name, r.stage, r.leaving)
	case r.prefetch != c.prefetch:
		s.fail("%s reads %s with a prefetch of %d, and for its Conn it is %d", c, c.q.name, c.prefetch, r.prefetch)
	}
}

// checkChannels: every channel of a link is a reader's, and of the reader somebody knows.
func (se *simSession) checkChannels() {
	for i, k := range se.links {
		if k == nil {
			continue
		}
		readers := 0
		for _, r := range se.conn.links[i].readers {
			if r == nil {
				continue
			}
			readers++
			f := r.ch.feed
			if r.m != nil && !slices.Contains(r.m.readers, r) || r.m == nil && (f == nil || !slices.Contains(f.getters, r)) {
				se.s.fail("%s has a reader on channel %d of link %d that nobody knows: %+v", se, r.number, i, r.shard)
			}
		}
		if readers != len(k.channels) {
			se.s.fail("%s has %d readers on link %d, and %s has %d channels", se, readers, i, k.b.name, len(k.channels))
		}
	}
}

// ends ends all channels, then all sessions: nothing is left of them.
func (s *sim) ends() {
	s.trace("all sessions are to end")
	for _, se := range s.allSessions() {
		for _, ch := range se.client.channels {
			if ch != nil && !se.client.dead && ch.answer == 0 {
				ch.close()
			}
		}
	}
	s.run(s.now + 5*time.Second)
	for _, se := range s.allSessions() {
		se.checkChannels()
		for i, k := range se.links {
			if k != nil && len(k.channels) > 0 {
				s.fail("all channels of %s are closed, and link %d has %d", se, i, len(k.channels))
			}
		}
		if !se.client.dead {
			se.client.leave()
		}
	}
	s.run(s.now + 5*time.Second)
	for i, n := range s.nodes {
		for _, queue := range sortedKeys(n.seats) {
			if n.seats[queue] != 0 {
				s.fail("%s has %d seats on %s", n.name, n.seats[queue], queue)
			}
		}
		if len(n.consumers)+len(n.sessions)+len(s.brokers[i].conns) > 0 {
			s.fail("%s has %d consumers, %d sessions and its broker %d connections", n.name, len(n.consumers), len(n.sessions), len(s.brokers[i].conns))
		}
	}
}
