package intercept

import (
	"amqproxy/frame"
	"amqproxy/shard"
)

// failedTicks is for how many ticks a shard that a message came back from, or that was
// nacked, is not tried again with others, unless a new Snapshot comes.
const failedTicks = 4

// again is a message that is to be sent to a shard once more. The entry is what the
// ledger knows of it, if there is one: its tag or id, its key, and what the client wants.
// Its frames are those of a basic.return, or if it was nacked, those of the copy.
type again struct {
	entry
	copied
	waits bool // it is on its way for the first time
}

// nacked tells whether the broker has nacked the message; otherwise it has come back.
func (m *again) nacked() bool { return m.size > 0 }

// to is where the message was published to; itself tells whether its headers are those
// that the client sent.
func (m *again) to() (exchange, key []byte, itself bool) {
	f := frame.First(m.frames)
	a := f.Args()
	a.Short()
	if itself = f.Method() == frame.BasicPublish; !itself {
		a.ShortStr()
	}
	return a.ShortStr(), a.ShortStr(), itself
}

func (m *again) keyHash() uint64 {
	_, key, _ := m.to()
	return shard.KeyHash(key)
}

// giveUp ends a message that no shard takes. The client sees it come back if it asked
// for that.
func (c *Conn) giveUp(ch *channel, m again, out *Out) {
	switch {
	case m.flags&entryMandatory != 0 && !m.nacked():
		c.toClient(ch, m.frames, out)
	case m.flags&entryMandatory != 0 && ch.ledger == nil && m.frames != nil:
		c.sendBack(ch, m, out)
	case ch.tx:
		ch.wants.lost = true
	case ch.ledger == nil:
		c.countDropped(&m)
	}
	c.unstored(ch, m, out)
}

// sendBack sends a message of the client's back to it.
func (c *Conn) sendBack(ch *channel, m again, out *Out) {
	exchange, key, _ := m.to()
	b := frame.Build(nil, ch.number, frame.BasicReturn).Short(frame.NoRoute).ShortStr("NO_ROUTE").
		ShortStr(string(exchange)).ShortStr(string(key)).End()
	c.toClient(ch, append(b, m.frames[len(frame.First(m.frames)):]...), out)
}

// unstored tells the ledger that a message is not stored.
func (c *Conn) unstored(ch *channel, m again, out *Out) {
	if m.nacked() {
		c.copies.end(&m.copied)
	}
	if ch.ledger != nil {
		ch.ledger.drop(m.entry)
		c.tell(ch, out)
	}
}

// keepForLater keeps a message of a channel without confirms for the next tick. Nobody
// waits for it, and which shard it came back from can't be told: by and by the table
// will be without that shard, or the shard is made again.
func (c *Conn) keepForLater(ch *channel, m again, out *Out) {
	if ch.laterSize+len(m.frames) > maxMessage {
		c.giveUp(ch, m, out)
		return
	}
	if len(ch.later) == 0 {
		c.waiting++
	}
	ch.later = append(ch.later, m)
	ch.laterSize += len(m.frames)
}

// sendLater sends what was kept for later, and if the channel waits to close, asks again
// whether that comes back.
func (c *Conn) sendLater(ch *channel, out *Out) {
	waits := len(ch.later) > 0 && (ch.waitsToClose() || c.leaving != nil || c.phase == settling)
	if c.sendKept(ch, out); waits {
		c.prove(ch, out)
	}
}

func (c *Conn) sendKept(ch *channel, out *Out) {
	if len(ch.later) == 0 || ch.state != chOpen && !ch.waitsToClose() {
		return
	}
	c.waiting--
	ch.again = append(ch.again, ch.later...)
	ch.later, ch.laterSize = nil, 0
	if ch.publish.state != pubPass {
		c.sendAgain(ch, out)
	}
}

// blame notes which shard a message has come back from, as well as can be told: if one
// that may be it is known to have failed, it was that one.
func (c *Conn) blame(ch *channel, g *leg, key uint64) {
	queue := uint32(0)
	ch.ledger.candidates(g.book, key, func(e *entry) bool {
		if e.flags&entryHeld == 0 && (queue == 0 || c.hasFailed(e.queue)) {
			queue = e.queue
		}
		return !c.hasFailed(queue)
	})
	if queue != 0 {
		c.fails(queue)
	}
}

// failings are shards that do not take what they should, by ID.
type failings map[uint32]*failing

type failing struct {
	ticks int // for how many more it counts as failed
	times int // that it has failed
	acks  int // of publishes to it meanwhile
}

// fails notes that a shard does not take what it should.
func (c *Conn) fails(queue uint32) {
	f := c.failed[queue]
	if f == nil {
		f = &failing{}
		c.failed[queue] = f
	}
	f.ticks = failedTicks
	f.times++
}

func (c *Conn) hasFailed(queue uint32) bool { return c.failed[queue] != nil }

// works notes an ack. What has come back is acked too: a shard with more acks than failures
// has stored something.
func (fs failings) works(queue uint32) {
	f := fs[queue]
	if f == nil {
		return
	}
	if f.acks++; f.acks > f.times {
		delete(fs, queue)
	}
}

// forgive has shards tried again after a while.
func (c *Conn) forgive() {
	for queue, f := range c.failed {
		if f.ticks--; f.ticks <= 0 {
			delete(c.failed, queue)
		}
	}
}

// sendAgain sends what has come back or was nacked to other shards. Nothing may come
// between the frames of a message.
func (c *Conn) sendAgain(ch *channel, out *Out) {
	if e := ch.failsAfter; e != nil && ch.state == chOpen {
		ch.failsAfter = nil
		c.fail(ch, e, out)
	}
	for len(ch.again) > 0 {
		m := ch.again[0]
		ch.again = ch.again[1:]
		switch sent, later := c.sendOne(ch, &m, false, out); {
		case later:
			c.park(ch, m)
		case !sent:
			c.giveUp(ch, m, out)
		}
	}
	ch.again = nil
	if ch.postponed {
		ch.postponed = false
		c.unpark(ch, out)
	}
}

// pickAgain picks the best shard that has not failed and can be reached, and its leg.
// What was nacked, or has not come back often, may go to one that has: not every nack is
// the shard's fault. With "wait" a message goes to its own shard only.
func (c *Conn) pickAgain(ch *channel, m *again, t *shard.Table, hash uint64, out *Out) (i int, g *leg, w way) {
	if m.waits || t.Settings.OnUnavailable == shard.Wait {
		if i = t.Pick(hash); ch.ledger != nil && !m.nacked() && c.hasFailed(t.ID(i)) {
			return i, nil, wayNone
		}
		g, w, _ = c.way(ch, t, i, out)
		return i, g, w
	}
	away := func(i int) bool {
		_, w, _ := c.way(ch, t, i, out)
		return w == wayNone || w == wayRefused
	}
	i = t.PickBut(hash, func(i int) bool { return ch.ledger != nil && c.hasFailed(t.ID(i)) || away(i) })
	if i < 0 && (m.nacked() || m.flags.timesBack() < maxBack) {
		i = t.PickBut(hash, away)
	}
	if i < 0 {
		return i, nil, wayNone
	}
	g, w, _ = c.way(ch, t, i, out)
	return i, g, w
}

// sendOne sends a message to a shard; if none can take it now, tells whether it is to
// wait. With "wait" it does so behind others that wait for the shard, unless it is its turn.
func (c *Conn) sendOne(ch *channel, m *again, turn bool, out *Out) (sent, later bool) {
	method := frame.First(m.frames)
	header := frame.First(m.frames[len(method):])
	exchange, key, itself := m.to()
	m.key = shard.KeyHash(key)
	t, _ := c.exchange(exchange)
	h, ok := frame.ParseHeader(header)
	if t == nil || !ok || len(t.Shards) == 0 {
		return false, false
	}
	hash := c.random()
	if !t.Random() {
		hash = hashOf(t, m.key, header, h)
	}
	i, g, w := c.pickAgain(ch, m, t, hash, out)
	waits := t.Settings.OnUnavailable == shard.Wait
	if waits && !turn && ch.ledger != nil && m.flags&entryAgain != 0 && !m.nacked() { // it has come back just now
		ch.ledger.doubt(t.ID(i))
	}
	if waits && !turn && w == wayOpen && (ch.parkedFor[t.ID(i)] > 0 || ch.probes(t.ID(i))) {
		w = wayNone
	}
	if w != wayOpen {
		m.queue = t.ID(t.Pick(hash)) // which it is to wait for
		return false, w == wayWait || w == wayNone && waits
	}
	seam, ok := findSeam(header, h, t.Settings.Persist)
	item := t.BCC(i)
	if itself {
		ch.keepBCC(seam, h, m.key)
	} else {
		item = append(ch.ownBCC(m.key, h.BodySize), item...)
	}
	size := len(header) + seam.growth(item)
	if !ok || size > c.cfg.FrameMax {
		return false, false
	}
	c.countAgain(t, m)
	to := out.to(g.link)
	to.built(to.build(ch.number, frame.BasicPublish).Short(0).ShortStr(string(exchange)).ShortStr(string(key)).Octet(mandatory))
	to.own(seam.splice(make([]byte, 0, size), header, item))
	to.own(m.frames[len(method)+len(header):])
	c.sentAgain(ch, g, t, i, *m)
	return true, false
}

// sentAgain notes that a message went to a shard.
func (c *Conn) sentAgain(ch *channel, g *leg, t *shard.Table, i int, m again) {
	g.link.wrote = true
	if ch.ledger == nil {
		g.unproven = !ch.tx
		c.copies.end(&m.copied)
		return
	}
	m.queue = t.ID(i)
	if t.Settings.OnUnavailable == shard.Wait {
		ch.ledger.probe(m.queue)
	}
	ch.ledger.sendAgain(g.book, m.entry)
	c.keepAgain(ch, g, t, m)
}

func (c *Conn) countDropped(m *again) {
	c.tally.all.dropped++
	if m.frames == nil {
		return
	}
	exchange, _, _ := m.to()
	if t, _ := c.exchange(exchange); t != nil {
		c.tally.stream(t.Counters).dropped++
	}
}

func (c *Conn) countAgain(t *shard.Table, m *again) {
	part, all := c.tally.stream(t.Counters), &c.tally.all
	switch {
	case m.waits:
		part.published++
		all.published++
	case m.nacked():
		part.retried++
		all.retried++
	default:
		part.rerouted++
		all.rerouted++
	}
}

// keepAgain keeps a copy of a message that was sent again. Of one that has come back it is
// kept in any case: its nack would be one for all that may have been it.
func (c *Conn) keepAgain(ch *channel, g *leg, t *shard.Table, m again) {
	k, ok := m.copied, true
	switch {
	case !t.Settings.RetryNacked && m.flags&entryAgain == 0:
		c.copies.end(&k)
		return
	case !m.nacked():
		k, ok = c.copies.begin(m.frames, len(m.frames))
	}
	if ok {
		ch.ledger.keep(g.book, k)
	}
}
