package intercept

import "amqproxy/frame"

// A nack of the broker's does not mean that the message is not stored. It is the client's
// nack, unless the definition has retry-nacked: then the message is sent again, from a
// copy, and may be there twice.

// maxRetries is how often one message is sent again because it was nacked.
const maxRetries = 3

// maxCopied bounds the copies of a session, in octets. What has no room is not copied,
// and its nack is the client's.
const maxCopied = 16 << 20

// maxSpare bounds the memory of former copies that a session has for the next ones.
const maxSpare = 1 << 20

// copied is a message on a leg, as the client sent it: method, header and body frames.
type copied struct {
	frames []byte
	size   int // what it will have when it is whole
	tries  int // how often it was sent again
}

// copies are the buffers of a session's copies.
type copies struct {
	size      int // of what is copied
	spare     [][]byte
	spareSize int
}

// begin gives a copy that begins with b; false if there is no room for one of that size.
func (c *copies) begin(b []byte, size int) (copied, bool) {
	if c.size+size > maxCopied {
		return copied{}, false
	}
	c.size += size
	var buf []byte
	if n := len(c.spare); n > 0 && cap(c.spare[n-1]) >= len(b) {
		buf = c.spare[n-1]
		c.spare = c.spare[:n-1]
		c.spareSize -= cap(buf)
	}
	return copied{frames: append(buf, b...), size: size}, true
}

// add appends b to a copy. A copy that it leaves no room for is ended.
func (c *copies) add(k *copied, b []byte) {
	if more := len(k.frames) + len(b) - k.size; more > 0 {
		if c.size+more > maxCopied {
			c.end(k)
			return
		}
		c.size += more
		k.size += more
	}
	k.frames = append(k.frames, b...)
}

// end takes the memory of a copy back.
func (c *copies) end(k *copied) {
	c.size -= k.size
	if n := cap(k.frames); n > 0 && c.spareSize+n <= maxSpare {
		c.spare = append(c.spare, k.frames[:0])
		c.spareSize += n
	}
	*k = copied{}
}

// copyWhole copies message b, the last publish of a channel to a stream.
func (c *Conn) copyWhole(ch *channel, g *leg, b []byte) {
	if ch.ledger == nil {
		return
	}
	if k, ok := c.copies.begin(b, len(b)); ok {
		ch.ledger.keep(g.book, k)
	}
}

// copyBegun copies the beginning of one; copyBody takes the rest.
func (c *Conn) copyBegun(ch *channel, g *leg, header frame.Frame) {
	h, ok := frame.ParseHeader(header)
	if ch.ledger == nil || !ok || h.BodySize > maxMessage {
		return
	}
	if k, ok := c.copyOf(ch, header, int(h.BodySize)); ok {
		ch.ledger.keep(g.book, k)
		ch.publish.copied = true
	}
}

// copyOf is a copy of the message in hand, as far as it is here.
func (c *Conn) copyOf(ch *channel, header frame.Frame, body int) (copied, bool) {
	method := ch.publish.method
	if ch.publish.toQueue {
		method = toExchange(frame.Build(nil, ch.number, frame.BasicPublish), method).End()
	}
	k, ok := c.copies.begin(method, len(method)+len(header)+body+frame.Overhead)
	if ok {
		c.copies.add(&k, header)
	}
	return k, ok
}

func (c *Conn) copyBody(ch *channel, f frame.Frame) {
	if k := ch.ledger.lastKept(ch.publish.leg.book); k != nil && k.frames != nil {
		c.copies.add(k, f)
	}
}

// retry sends again what the broker has nacked.
func (c *Conn) retry(ch *channel, out *Out) {
	if len(ch.ledger.retries) == 0 {
		return
	}
	for _, m := range ch.ledger.retries {
		if ch.state != chOpen && !ch.waitsToClose() {
			c.unstored(ch, m, out)
			continue
		}
		c.fails(m.queue)
		ch.again = append(ch.again, m)
	}
	ch.ledger.retries = ch.ledger.retries[:0]
	if ch.publish.state != pubPass {
		c.sendAgain(ch, out)
	}
}
