package intercept

import (
	"cmp"
	"slices"
)

// A client's prefetch is one figure for all its shards, and a broker's is one for each. What
// the client may have unsettled is shared out, so that the readers together hold no more than
// that, or one each. Where some have nothing to bring, the others share all of it: else a
// client that acknowledges ten at a time, with a prefetch of ten, would wait for ever for what
// one shard alone has. (When these have something again, each may bring one more than its
// share, for a second, until it is shared out anew.)

// noAckPrefetch is how many messages of a shard for a no-ack consumer may be on their way.
const noAckPrefetch = 200

// limited is how many messages of a consumer's the client may have unsettled; 0 is any number.
func (m *member) limited() int {
	if all := m.ch.qosAll; all > 0 && (m.limit == 0 || all < m.limit) {
		return all
	}
	return m.limit
}

// prefetch shares it out among the readers.
func (c *Conn) prefetch(m *member, out *Out) {
	var busy, idle []*reader
	for _, r := range m.readers {
		switch {
		case r.leaving:
		case r.idle:
			idle = append(idle, r)
		default:
			busy = append(busy, r)
		}
	}
	if len(busy) == 0 {
		busy, idle = idle, nil
	}
	slices.SortFunc(busy, func(a, b *reader) int { return cmp.Compare(a.shard.Queue, b.shard.Queue) })
	limit := m.limited()
	for i, r := range busy {
		n := limit / len(busy)
		if i < limit%len(busy) {
			n++
		}
		c.want(r, m.each(n), out)
	}
	for _, r := range idle {
		c.want(r, m.each(1), out)
	}
}

// each is the prefetch for a reader whose share is n.
func (m *member) each(n int) int {
	switch {
	case m.flags&consumeNoAck != 0:
		return noAckPrefetch
	case m.limited() == 0:
		return 0
	}
	return max(n, 1)
}

func (c *Conn) prefetchAll(ch *channel, out *Out) {
	if ch.feed == nil {
		return
	}
	for _, m := range ch.feed.members {
		c.prefetch(m, out)
	}
}

// relieve shares out anew when the client could have more and gets nothing because those who
// have something may not bring it, and evenly again when all have something.
func (c *Conn) relieve(m *member, out *Out) {
	if m.left || m.flags&consumeNoAck != 0 || m.limited() == 0 {
		return
	}
	full, even, nothing := false, true, 0
	for _, r := range m.readers {
		holds := r.unacked + len(r.waiting)
		full = full || holds > 0 && holds >= r.prefetch
		even = even && !r.idle
		if holds == 0 {
			nothing++
		}
	}
	starves := full && nothing > 0 && len(m.ready) == 0 && m.unacked < m.limited()
	uneven := !even && nothing == 0
	if !starves && !uneven {
		m.starved = 0
		return
	}
	if m.starved++; m.starved < 2 {
		return
	}
	m.starved = 0
	for _, r := range m.readers {
		r.idle = starves && r.unacked+len(r.waiting) == 0
	}
	c.prefetch(m, out)
}
