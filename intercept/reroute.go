package intercept

import (
	"slices"

	"amqproxy/frame"
	"amqproxy/shard"
)

// Every publish to a stream is mandatory upstream: RabbitMQ confirms what it can't
// route as if it were stored, but it sends it back before. What comes back goes to the
// next shard, and the client's confirm waits for that.

// maxMessage is the largest message that is taken in to be sent again, in octets. A
// larger one is given up.
const maxMessage = 16 << 20

// comeback is a message for a stream that the broker is sending back.
type comeback struct {
	frames []byte // method, header and body frames, as they came
	large  bool   // over maxMessage: its body is not kept
}

// bccCopy is what a message had in its BCC header, which the broker takes out.
type bccCopy struct {
	key   uint64
	size  uint64
	items []byte
}

// maxCopies bounds the copies of a channel: they are for messages under way.
const maxCopies = 256

// wants tells whether publishes to streams were mandatory for the client.
type wants struct {
	used bool // there were some
	yes  bool
	lost bool // one of this transaction was not stored, and the client has not seen it
}

// sent notes a publish that is for no stream.
func (ch *channel) sent() {
	if ch.ledger != nil {
		ch.ledger.publish(0, 0, 0, false)
		return
	}
	ch.confirms.publish()
}

// sentToStream notes a publish to a shard by a leg.
func (c *Conn) sentToStream(ch *channel, g *leg, queue uint32, key uint64, mandatory bool) {
	g.link.wrote = true
	if !ch.confirms.on {
		ch.wants.used, ch.wants.yes = true, ch.wants.yes || mandatory
		g.unproven = !ch.tx
		return
	}
	c.needsLedger(ch)
	ch.ledger.publish(g.book, key, queue, mandatory)
}

// needsLedger begins the ledger of a channel that confirms.
func (c *Conn) needsLedger(ch *channel) {
	if ch.ledger != nil {
		return
	}
	if c.failed == nil {
		c.failed = failings{}
	}
	ch.ledger = newLedger(ch.confirms, &c.copies, c.failed)
	c.ledgers++
	for _, g := range ch.more {
		if g != nil {
			ch.ledger.begins(g.book)
		}
	}
}

// confirmSelect takes the client's confirm.select, which holds for all legs.
func (c *Conn) confirmSelect(ch *channel, out *Out) {
	if ch.confirms.on {
		return
	}
	ch.confirms.on = true
	for _, g := range ch.more {
		if g != nil {
			c.confirmLeg(ch, g, out)
		}
	}
}

// keepBCC keeps the BCC entries that a message has of its own.
func (ch *channel) keepBCC(s seam, h frame.Header, key uint64) {
	if s.end == 0 {
		return
	}
	if len(ch.copies) >= maxCopies {
		ch.copies = slices.Delete(ch.copies, 0, 1)
	}
	ch.copies = append(ch.copies, bccCopy{key: key, size: h.BodySize, items: slices.Clone(h.Table[s.at+4 : s.end])})
}

// wasOurs tells whether a basic.return is about a message that was sent to a shard: its
// exchange is a stream, or was one and is being changed or gone.
func (c *Conn) wasOurs(ch *channel, f frame.Frame) (ours bool) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	exchange, key := a.ShortStr(), a.ShortStr()
	if _, v := c.exchange(exchange); v == shard.IsStream {
		return true
	}
	if ch.ledger == nil {
		_, match := c.snap.Match(c.cfg.VHost, string(exchange))
		return match && ch.wants.used
	}
	return ch.ledger.knows(0, shard.KeyHash(key))
}

// beginsComeback takes a basic.return that is about a stream: the client does not see it
// for now.
func (c *Conn) beginsComeback(ch *channel, g *leg, f frame.Frame) {
	g.comeback = &comeback{frames: append([]byte(nil), f...)}
	g.down.begin()
}

// comesBack takes its header and body.
func (c *Conn) comesBack(ch *channel, g *leg, f frame.Frame, out *Out) {
	b := g.comeback
	if size, _ := frame.BodySize(f); f.Type() == frame.TypeHeader && size > maxMessage {
		b.large = true
		if m := (again{copied: copied{frames: b.frames}}); g.link == &c.home && c.wanted(ch, g, m.keyHash()) { // the client gets it as it comes
			out.Client.own(b.frames)
			out.Client.view(f)
			g.comeback = nil
			c.unstored(ch, c.dueAgain(ch, g, b.frames), out)
			return
		}
	}
	if !b.large {
		b.frames = append(b.frames, f...)
	}
	if !g.down.busy() {
		g.comeback = nil
		c.cameBack(ch, g, b, out)
	}
}

// cameBack deals with a message that is here as a whole.
func (c *Conn) cameBack(ch *channel, g *leg, b *comeback, out *Out) {
	if m := (again{copied: copied{frames: b.frames}}); ch.ledger != nil && ch.ledger.gaveUp(g.book) && !ch.ledger.knows(g.book, m.keyHash()) {
		return // its broker took too long: it was given up, or sent again
	}
	m := c.dueAgain(ch, g, b.frames)
	switch {
	case b.large:
		c.unstored(ch, m, out)
	case ch.tx || ch.state != chOpen && !ch.waitsToClose():
		c.giveUp(ch, m, out)
	case ch.ledger == nil:
		c.keepForLater(ch, m, out)
	default:
		c.blame(ch, g, m.key)
		ch.again = append(ch.again, m)
		if ch.publish.state != pubPass {
			c.sendAgain(ch, out)
		}
	}
}

// dueAgain notes that a message has come back.
func (c *Conn) dueAgain(ch *channel, g *leg, frames []byte) again {
	m := again{copied: copied{frames: frames}}
	m.key, m.flags = m.keyHash(), entryAgain
	if c.wanted(ch, g, m.key) {
		m.flags |= entryMandatory
	}
	if ch.ledger != nil {
		most := entryFlags(0) // of those that it may be
		ch.ledger.candidates(g.book, m.key, func(e *entry) bool {
			if e.flags&entryHeld == 0 && e.flags.timesBack() > most.timesBack() {
				most = e.flags
			}
			return true
		})
		m.flags |= most.backOnceMore() &^ (1<<backShift - 1)
		m.tag = ch.ledger.cameBack(g.book)
	}
	return m
}

// wanted tells whether the client is to see a message with this key that has come back.
// Without a ledger nobody knows which it was: then it is, if any was mandatory.
func (c *Conn) wanted(ch *channel, g *leg, key uint64) (wanted bool) {
	if ch.ledger == nil {
		return ch.wants.yes
	}
	ch.ledger.candidates(g.book, key, func(e *entry) bool {
		wanted = e.flags&entryMandatory != 0
		return !wanted
	})
	return wanted
}

// ownBCC is what a message had in its BCC header of its own.
func (ch *channel) ownBCC(key, size uint64) []byte {
	for _, k := range ch.copies {
		if k.key == key && k.size == size {
			return slices.Clone(k.items)
		}
	}
	return nil
}

// commitLost takes tx.commit-ok: true, and the channel is closed instead, if a message
// of the transaction is not stored and the client does not know.
func (c *Conn) commitLost(ch *channel, out *Out) bool {
	if !ch.wants.lost {
		return false
	}
	ch.wants.lost = false
	c.fail(ch, &frame.ChannelError{Code: frame.ResourceError, Method: frame.TxCommit,
		Text: "a message of the transaction could not be routed to its shard and is not stored"}, out)
	return true
}

// tell tells the client what the ledger has settled.
func (c *Conn) tell(ch *channel, out *Out) {
	n := ch.ledger.tell()
	c.tally.all.confirmed += n.confirmed
	c.tally.all.nacked += uint64(len(n.nacks))
	if ch.state == chOpen || ch.waitsToClose() || ch.state == chClientCloses || ch.state == chLegClosing {
		for _, tag := range n.nacks {
			c.confirm(ch, frame.BasicNack, tag, false, out)
		}
		if n.upTo > 0 {
			c.confirm(ch, frame.BasicAck, n.upTo, n.confirmed > 1, out)
		}
		for _, tag := range n.acks {
			c.confirm(ch, frame.BasicAck, tag, false, out)
		}
	}
	c.goOn(ch, out)
}

func (c *Conn) confirm(ch *channel, m frame.Method, tag uint64, multiple bool, out *Out) {
	if ch.down.busy() {
		c.toClient(ch, frame.Build(nil, ch.number, m).LongLong(tag).Bit(multiple).End(), out)
		return
	}
	out.Client.built(out.Client.build(ch.number, m).LongLong(tag).Bit(multiple))
}
