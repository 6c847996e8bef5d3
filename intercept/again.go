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
	case ch.tx:
		ch.wants.lost = true
	}
	c.unstored(ch, m, out)
}

// unstored tells the ledger that a message is not stored.
func (c *Conn) unstored(ch *channel, m again, out *Out) {
	if ch.ledger != nil {
		if m.nacked() {
			c.copies.end(&m.copied)
		}
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
func (c *Conn) blame(ch *channel, key uint64) {
	queue := uint32(0)
	ch.ledger.candidates(0, key, func(e *entry) bool {
		if e.flags&entryHeld == 0 && (queue == 0 || c.hasFailed(e.queue)) {
			queue = e.queue
		}
		return !c.hasFailed(queue)
	})
	if queue != 0 {
		c.fails(queue)
	}
}

// fails notes that a shard does not take what it should.
func (c *Conn) fails(queue uint32) {
	if c.failed == nil {
		c.failed = map[uint32]int{}
	}
	c.failed[queue] = failedTicks
}

func (c *Conn) hasFailed(queue uint32) bool { return c.failed[queue] > 0 }

// forgive has shards tried again after a while.
func (c *Conn) forgive() {
	for queue := range c.failed {
		if c.failed[queue]--; c.failed[queue] <= 0 {
			delete(c.failed, queue)
		}
	}
}

// sendAgain sends what has come back or was nacked to other shards. Nothing may come
// between the frames of a message.
func (c *Conn) sendAgain(ch *channel, out *Out) {
	for len(ch.again) > 0 {
		m := ch.again[0]
		ch.again = ch.again[1:]
		if !c.sendOne(ch, m, out) {
			c.giveUp(ch, m, out)
		}
	}
	ch.again = nil
}

// pickAgain picks the best shard that has not failed; -1 if there is none. What was
// nacked may go to one that has: not every nack is the shard's fault.
func (c *Conn) pickAgain(ch *channel, m *again, t *shard.Table, hash uint64) int {
	if ch.ledger == nil {
		return t.Pick(hash)
	}
	i := t.PickBut(hash, c.hasFailed)
	if i < 0 && m.nacked() {
		return t.Pick(hash)
	}
	return i
}

// sendOne sends a message to a shard; false if there is none that it can go to.
func (c *Conn) sendOne(ch *channel, m again, out *Out) bool {
	method := frame.First(m.frames)
	header := frame.First(m.frames[len(method):])
	body := m.frames[len(method)+len(header):]
	exchange, key, itself := m.to()
	m.key = shard.KeyHash(key)
	t, _ := c.exchange(exchange)
	h, ok := frame.ParseHeader(header)
	if t == nil || !ok || len(t.Shards) == 0 {
		return false
	}
	hash := c.random()
	if !t.Random() {
		hash = hashOf(t, m.key, header, h)
	}
	i := c.pickAgain(ch, &m, t, hash)
	seam, ok := findSeam(header, h, t.Settings.Persist)
	if i < 0 || !ok {
		return false
	}
	item := t.BCC(i)
	if !itself {
		item = append(ch.ownBCC(m.key, h.BodySize), item...)
	}
	size := len(header) + seam.growth(item)
	if size > c.frameMax {
		return false
	}
	c.countAgain(t, &m)
	out.Home.built(out.Home.build(ch.number, frame.BasicPublish).Short(0).ShortStr(string(exchange)).ShortStr(string(key)).Octet(mandatory))
	out.Home.own(seam.splice(make([]byte, 0, size), header, item))
	out.Home.own(body)
	if ch.ledger != nil {
		m.queue = t.ID(i)
		ch.ledger.sendAgain(0, m.entry)
		c.keepAgain(ch, t, m)
	}
	return true
}

func (c *Conn) countAgain(t *shard.Table, m *again) {
	part, all := c.tally.stream(t.Counters), &c.tally.all
	if m.nacked() {
		part.retried++
		all.retried++
		return
	}
	part.rerouted++
	all.rerouted++
}

// keepAgain keeps a copy of a message that was sent again.
func (c *Conn) keepAgain(ch *channel, t *shard.Table, m again) {
	k := m.copied
	if !m.nacked() {
		if !t.Settings.RetryNacked {
			return
		}
		var ok bool
		if k, ok = c.copies.begin(m.frames, len(m.frames)); !ok {
			return
		}
	}
	ch.ledger.keep(0, k)
}
