package intercept

import (
	"slices"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// A publish whose shard's broker can't be had goes by the definition's on-unavailable: to
// the next shard, or it waits here for a while, or it is refused.

// parked is a message that waits for its shard.
type parked struct {
	again
	until time.Time // zero until the next tick
}

// choose picks the shard for a publish and the leg that it goes by. If there is none now,
// the message is to be parked.
func (c *Conn) choose(ch *channel, t *shard.Table, hash uint64, out *Out) (i int, g *leg, w way, why string) {
	i = t.Pick(hash)
	g, w, why = c.way(ch, t, i, out)
	waits := t.Settings.OnUnavailable == shard.Wait
	if waits && w == wayOpen && (len(ch.parked) > 0 && c.waitsBefore(ch, t.ID(i), out) || ch.probes(t.ID(i))) {
		return i, nil, wayNone, ""
	}
	if waits && w == wayOpen && ch.ledger != nil {
		ch.ledger.probe(t.ID(i))
	}
	if w != wayNone || t.Settings.OnUnavailable != shard.Spill {
		return i, g, w, why
	}
	next := t.PickBut(hash, func(i int) bool {
		_, w, _ := c.way(ch, t, i, out)
		return w == wayNone || w == wayRefused
	})
	if next < 0 {
		return i, c.blockedLeg(ch, &t.Shards[i]), w, why
	}
	g, w, why = c.way(ch, t, next, out)
	return next, g, w, why
}

// blockedLeg is the leg to a shard whose broker is merely blocked: where no other shard can
// be had, what is for it waits for the end of the alarm there, as with RabbitMQ. nil if it
// is not so.
func (c *Conn) blockedLeg(ch *channel, s *shard.Shard) *leg {
	for g := range ch.legs {
		l := g.link
		if (s.Local && g == &ch.leg || !s.Local && l.to.Node == s.Node) && l.state == linkUp && l.blocked && !l.held && !g.suspect {
			return g
		}
	}
	return nil
}

// waitsBefore tells whether messages wait for a shard that the next one must not overtake.
// What made the shard available may have sent them on already; if not they are tried once
// a tick.
func (c *Conn) waitsBefore(ch *channel, queue uint32, out *Out) bool {
	if ch.parkedFor[queue] > 0 && !ch.tried {
		ch.tried = true
		c.unpark(ch, out)
	}
	return ch.parkedFor[queue] > 0
}

// probes tells whether a message is on its way to a shard that is to show whether the queue is
// back: others wait for it.
func (ch *channel) probes(queue uint32) bool { return ch.ledger != nil && ch.ledger.probing[queue] }

// keepPublish begins to take in a message that has no way now.
func (c *Conn) keepPublish(ch *channel, queue uint32, header frame.Frame, out *Out) {
	p := &ch.publish
	waits := p.table.Settings.OnUnavailable == shard.Wait
	if h, ok := frame.ParseHeader(header); ok && waits { // before it has a tag: the oldest is told first
		c.makeRoom(ch, len(p.method)+len(header)+int(min(h.BodySize, maxCopied))+frame.Overhead, out)
	}
	a := p.method.Args()
	a.Short()
	a.ShortStr()
	e := entry{key: shard.KeyHash(a.ShortStr()), queue: queue}
	if a.Octet()&mandatory != 0 {
		e.flags = entryMandatory
	}
	if ch.confirms.on {
		c.needsLedger(ch)
		ch.ledger.tags.sent++
		e.tag = ch.ledger.tags.sent
	}
	p.state, p.leg, p.kept = pubKeep, nil, again{entry: e, waits: true}
	if h, ok := frame.ParseHeader(header); ok && h.BodySize <= maxMessage {
		p.kept.copied, _ = c.copyOf(ch, header, int(h.BodySize))
	}
	p.content.next(header)
}

// makeRoom gives up the oldest that wait on the channel until there is room for one of
// this size.
func (c *Conn) makeRoom(ch *channel, size int, out *Out) {
	for len(ch.parked) > 0 && c.copies.size+size > maxCopied && size < maxCopied {
		c.giveUp(ch, c.unparkFirst(ch).again, out)
	}
}

// keptBody takes a body frame of it.
func (c *Conn) keptBody(ch *channel, f frame.Frame, out *Out) {
	p := &ch.publish
	if p.kept.frames != nil {
		c.copies.add(&p.kept.copied, f)
	}
	p.content.next(f)
	if !p.content.busy() {
		c.keptWhole(ch, out)
	}
}

// keptWhole deals with it when it is here.
func (c *Conn) keptWhole(ch *channel, out *Out) {
	p := &ch.publish
	m, wait := p.kept, p.table.Settings.OnUnavailable == shard.Wait && p.kept.frames != nil
	p.method, p.table, p.state, p.kept = nil, nil, pubNone, again{}
	if wait {
		c.park(ch, m)
	} else {
		c.giveUp(ch, m, out)
	}
	c.sendAgain(ch, out)
}

// park has a message wait that was sent before: in front of those that were not, for it
// is older.
func (c *Conn) park(ch *channel, m again) {
	c.keepParked(ch, parked{again: m})
	if m.waits {
		return
	}
	last := len(ch.parked) - 1
	first := slices.IndexFunc(ch.parked[:last], func(p parked) bool { return p.waits })
	if first >= 0 {
		copy(ch.parked[first+1:], ch.parked[first:last])
		ch.parked[first] = parked{again: m}
	}
}

func (c *Conn) keepParked(ch *channel, m parked) {
	if ch.parkedFor == nil {
		ch.parkedFor = map[uint32]int{}
	}
	c.parked++
	ch.parkedFor[m.queue]++
	ch.parked = append(ch.parked, m)
}

// unparkFirst takes the oldest that waits.
func (c *Conn) unparkFirst(ch *channel) parked {
	m := ch.parked[0]
	ch.parked = ch.parked[1:]
	c.parked--
	if ch.parkedFor[m.queue]--; ch.parkedFor[m.queue] == 0 {
		delete(ch.parkedFor, m.queue)
	}
	return m
}

// unpark sends what waits as far as it has a way now, what is for one shard in order. Nothing
// may come between the frames of a message.
func (c *Conn) unpark(ch *channel, out *Out) {
	if ch.postponed = ch.publish.state == pubPass; ch.postponed || ch.state != chOpen && !ch.waitsToClose() {
		return
	}
	var stay []uint32 // shards of which the first one can't be sent
	for n := len(ch.parked); n > 0 && len(ch.parked) > 0; n-- {
		m := c.unparkFirst(ch)
		sent, later := false, true
		if !slices.Contains(stay, m.queue) && !ch.probes(m.queue) {
			sent, later = c.sendOne(ch, &m.again, true, out)
		}
		switch {
		case sent:
		case later && (m.until.IsZero() || c.now.Before(m.until)):
			stay = append(stay, m.queue)
			c.keepParked(ch, m)
		default:
			c.giveUp(ch, m.again, out)
		}
	}
}

// tickParked begins the time of what waits, and ends that of what has waited too long.
func (c *Conn) tickParked(ch *channel, out *Out) {
	ch.tried = false
	for i := range ch.parked {
		if m := &ch.parked[i]; m.until.IsZero() {
			m.until = c.now.Add(c.cfg.WaitTimeout)
		}
	}
	c.unpark(ch, out)
}

// dropParked lets go what waits on a channel that is no more.
func (c *Conn) dropParked(ch *channel) {
	c.parked -= len(ch.parked)
	for i := range ch.parked {
		c.copies.end(&ch.parked[i].copied)
	}
	c.copies.end(&ch.publish.kept.copied)
	ch.parked, ch.parkedFor = nil, nil
}
