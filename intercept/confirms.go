package intercept

import (
	"math/bits"

	"amqproxy/frame"
)

// confirms tells whether every publish of a channel is settled. Tags count from
// 1; all up to low are settled, and of those beyond, the ones whose bit is set.
type confirms struct {
	on     bool // confirm.select went up
	sent   uint64
	low    uint64
	base   uint64 // tag of bit 0 of beyond[0]; a multiple of 64
	beyond []uint64
	singly uint64 // how many bits of beyond are set
}

// publish counts a publish that goes up.
func (c *confirms) publish() {
	if c.on {
		c.sent++
	}
}

func (c *confirms) outstanding() bool { return c.low < c.sent }

// settle takes an ack or nack of the broker's and tells how many publishes it
// settled. Tags that were never sent are of no account: the client gets them, and
// the protocol has no answer to a broker.
func (c *confirms) settle(tag uint64, multiple bool) uint64 {
	before := c.low + c.singly
	switch {
	case tag > c.sent:
		return 0
	case multiple && tag == 0:
		c.raise(c.sent)
	case multiple:
		c.raise(tag)
	case tag == c.low+1:
		c.low++
	case tag > c.low:
		c.mark(tag)
	}
	c.advance()
	return c.low + c.singly - before
}

// has tells whether a tag is settled.
func (c *confirms) has(tag uint64) bool {
	if tag <= c.low {
		return true
	}
	i := (tag - c.base) / 64
	return i < uint64(len(c.beyond)) && c.beyond[i]&(1<<(tag%64)) != 0
}

// mark notes a tag beyond low.
func (c *confirms) mark(tag uint64) {
	i := (tag - c.base) / 64
	for uint64(len(c.beyond)) <= i {
		c.beyond = append(c.beyond, 0)
	}
	if bit := uint64(1) << (tag % 64); c.beyond[i]&bit == 0 {
		c.beyond[i] |= bit
		c.singly++
	}
}

// raise moves low to tag, over bits that are set and bits that are not.
func (c *confirms) raise(tag uint64) {
	for c.low < tag {
		next := c.low + 1
		i, at := (next-c.base)/64, next%64
		if i >= uint64(len(c.beyond)) {
			c.low = tag
			return
		}
		n := min(64-at, tag-c.low)
		mask := (uint64(1)<<n - 1) << at // n = 64 wraps to all ones, as it should
		c.singly -= uint64(bits.OnesCount64(c.beyond[i] & mask))
		c.beyond[i] &^= mask
		c.low += n
	}
}

// advance moves low over the tags that were settled out of order, and drops the
// words that it has passed.
func (c *confirms) advance() {
	for c.singly > 0 {
		i, at := (c.low+1-c.base)/64, (c.low+1)%64
		if i >= uint64(len(c.beyond)) {
			break
		}
		run := uint64(bits.TrailingZeros64(^(c.beyond[i] >> at)))
		if run == 0 {
			break
		}
		c.raise(c.low + run)
	}
	if passed := (c.low + 1 - c.base) / 64; passed > 0 {
		n := copy(c.beyond, c.beyond[min(passed, uint64(len(c.beyond))):])
		c.beyond = c.beyond[:n]
		c.base += passed * 64
	}
}

// settleLeg takes a broker's word on the publishes of a leg.
func (c *Conn) settleLeg(ch *channel, g *leg, tag uint64, multiple, ack bool, out *Out) {
	ch.ledger.settle(g.book, tag, multiple, ack)
	c.moves(ch, g, out)
	c.retry(ch, out)
	c.tell(ch, out)
	if ch.ledger.cleared {
		ch.ledger.cleared = false
		c.unpark(ch, out)
	}
	if g == &ch.leg {
		c.linkThere(ch, out) // what waits since it must not overtake
	}
}

// settled takes the broker's ack or nack of publishes; true when what the client is
// told of it was told here.
func (c *Conn) settled(ch *channel, f frame.Frame, out *Out) (told bool) {
	a := f.Args()
	tag, multiple := a.LongLong(), a.Bit()
	if !a.OK() {
		return false
	}
	if ch.ledger != nil {
		c.settleLeg(ch, &ch.leg, tag, multiple, f.Method() == frame.BasicAck, out)
		return true
	}
	n := ch.confirms.settle(tag, multiple)
	if f.Method() == frame.BasicAck {
		c.tally.all.confirmed += n
	} else {
		c.tally.all.nacked += n
	}
	c.goOn(ch, out)
	return false
}
