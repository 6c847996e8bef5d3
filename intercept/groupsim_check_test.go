package intercept

import (
	"fmt"
	"time"
)

// simCounts are what was met in all histories.
type simCounts struct {
	histories, sessions, consumers, messages, deliveries int
	faults                                               map[string]int
	crossed                                              int // consumers that began on a shard while the answer to another was on its way
	excused                                              int // that began on one that had one, while proxies did not know of each other
	rest                                                 time.Duration
	restSeed                                             uint64
	over                                                 time.Duration // the longest that a consumer had more than it may
}

func (c *simCounts) String() string {
	return fmt.Sprintf("%d histories, %d sessions, %d consumers, %d messages delivered %d times, faults %v; two consumers on a shard: %d by questions that crossed, %d while proxies did not know of each other; "+
		"the longest until all shards had theirs: %v (history %d); the longest that a consumer held more than its prefetch: %v",
		c.histories, c.sessions, c.consumers, c.messages, c.deliveries, c.faults, c.crossed, c.excused, c.rest, c.restSeed, c.over)
}

// disturbed says that until then proxies may not know what the others do.
func (s *sim) disturbed(until time.Duration) { s.excused = max(s.excused, until) }

// subscribes checks who begins to consume a shard: while another does, only one may whom the
// broker has told that nobody does.
func (s *sim) subscribes(c *simConsumer) {
	if !c.q.shard {
		return
	}
	s.counts.consumers++
	s.trace("%s begins on %s", c, c.q.name)
	if c.member == 0 {
		s.fail("%s begins on %s for no consumer of the client's", c, c.q.name)
	}
	if !s.ordered {
		return
	}
	for _, o := range c.q.consumers {
		switch {
		case !c.q.single:
			s.fail("%s and %s are both active on %s", o, c, c.q.name)
		case c.ch.counted >= 0 && o.since >= c.ch.counted:
			s.counts.crossed++
		case s.now <= s.excused:
			s.counts.excused++
		default:
			s.fail("%s begins on %s, where %s is", c, c.q.name, o)
		}
	}
}

// checkSettled checks what a broker is told of a delivery: it is what the client has said.
func (s *sim) checkSettled(d *simDelivery, f fate, p packet) {
	if d.void && !d.noAck || d.settled > p.turn || d.fate != f {
		s.fail("%v is settled at %s with %d; its client has said %d in turn %d of now %d, void: %v", d, d.ch.k.b.name, f, d.fate, d.settled, p.turn, d.void)
	}
}

// explained tells why a delivery that the client has may go back to its queue with the
// reader's channel: its time to hand it over is up. "" is a good reason.
func (s *sim) explained(d *simDelivery, p packet) string {
	se, c := d.ch.k.se, d.c
	switch {
	case d.settled != never || c != nil && c.cancelled || se.conn.phase == parted: // once that is so nothing of the client counts
		return ""
	case c == nil || c.member == 0:
		return "its channel is open"
	}
	since, left := se.gone[c.member]
	for _, lost := range se.members[c.member][d.q.name] {
		if lost >= c.since && (!left || lost < since) {
			since, left = lost, true
		}
	}
	switch {
	case !left:
		return "its consumer is to read on"
	case p.at-since < s.handover:
		return fmt.Sprintf("it had %v of %v to settle it", p.at-since, s.handover)
	}
	return ""
}

// checkDelivers checks that nobody else has messages of the key.
func (s *sim) checkDelivers(c *simConsumer, m *simMessage) {
	if m.key == nil || !s.inOrder {
		return
	}
	for _, o := range m.key.messages {
		if d := o.last; d != nil && !d.over && (d.c.ch.k.se != c.ch.k.se || d.c.member != c.member) {
			s.fail("message %d of %s goes to %s, and %s has %v", m.n, m.key.name, c, d.c, d)
		}
	}
}

// checkReceived checks what a client sees.
func (s *sim) checkReceived(d *simDelivery, again bool) {
	m := d.m
	s.counts.deliveries++
	switch {
	case again != d.again:
		s.fail("%v was delivered before: %v, and its client is told %v", d, d.again, again)
	case !m.seen && m.key != nil && m.n < m.key.seen && s.inOrder && !d.noAck: // what needs no ack may still be on its way
		s.fail("%v comes when message %d was seen", d, m.key.seen-1)
	}
	if m.seen = true; m.key != nil {
		m.key.seen = max(m.key.seen, m.n+1)
	}
}

// checkHeld checks that a reader is sent no more than it may have, when it had time to say
// so.
func (s *sim) checkHeld(c *simConsumer) {
	se := c.ch.k.se
	if c.member == 0 || c.ch.k.link >= len(se.conn.links) || se.over {
		return
	}
	r := se.conn.links[c.ch.k.link].reader(c.ch.n)
	if r == nil || r.prefetch == 0 || r.leaving || r.stage >= readerClosing {
		return
	}
	w := se.wants[r]
	if c.unacked > r.prefetch && w.prefetch == r.prefetch && s.now-w.since > 2*time.Second {
		s.fail("%s has %d messages of %s, and for %v was to have %d", c, c.unacked, c.q.name, s.now-w.since, r.prefetch)
	}
}

// simWant is what a reader is to consume with, and since when.
type simWant struct {
	prefetch int
	since    time.Duration
}

// checkConn checks that what a Conn counts is right.
func (se *simSession) checkConn() {
	s := se.s
	if se.wants == nil {
		se.wants = map[*reader]simWant{}
	}
	for _, m := range se.conn.groupMembers() {
		if m.ch.feed == nil {
			continue
		}
		open := map[*reader]int{}
		for e := range m.ch.feed.unsettled {
			open[m.ch.feed.sources[e.from]]++
		}
		sum, n, held := 0, 0, 0 // what readers may have, how many there are, and what they have
		for _, r := range m.readers {
			if w, known := se.wants[r]; !known || w.prefetch != r.prefetch {
				se.wants[r] = simWant{r.prefetch, s.now}
			}
			if r.unacked != open[r] && m.flags&consumeNoAck == 0 {
				s.fail("%s counts %d messages of %s that the client has, and there are %d", se, r.unacked, r.shard.Queue, open[r])
			}
			held += r.unacked + len(r.waiting)
			if !r.leaving {
				sum, n = sum+r.prefetch, n+1
			}
			if r.idle { // it may have one beside what the others share
				sum--
			}
		}
		se.checkLimit(m, sum, n, held)
	}
}

// checkLimit checks what the readers of a consumer may have all together, and measures for
// how long they had more.
func (se *simSession) checkLimit(m *member, sum, n, held int) {
	limit := m.limit
	if all := m.ch.qosAll; all > 0 && (limit == 0 || all < limit) {
		limit = all
	}
	if limit == 0 || m.flags&consumeNoAck != 0 {
		delete(se.overSince, m.number)
		return
	}
	if sum > max(limit, n) {
		se.s.fail("%s: the readers of %s may have %d messages, of %d", se, m.tag, sum, limit)
	}
	if held <= max(limit, n) {
		delete(se.overSince, m.number)
		return
	}
	since, was := se.overSince[m.number]
	if !was {
		since = se.s.now
		se.overSince[m.number] = since
	}
	se.s.counts.over = max(se.s.counts.over, se.s.now-since)
	if se.s.resting && se.s.now-max(since, se.s.restsFrom) > simRest {
		se.s.fail("%s: %s has %d messages of %d for %v", se, m.tag, held, limit, se.s.now-since)
	}
}

// time is the time as a Conn is told it.
func (s *sim) time() time.Time { return time.Unix(1000, 0).Add(s.now) }
