package intercept

import (
	"fmt"
	"time"

	"amqproxy/frame"
)

// simStream is the stream whose group it is, and what is before its node's name in that of a
// queue that clients consume by its own name.
const (
	simStream = "shard.v"
	simPlain  = "plain "
)

// simClient is a client that keeps to the protocol.
type simClient struct {
	se       *simSession
	up       *pipe
	channels [3]*simClientChannel // number 0 is the connection
	coming   simContents
	pace     time.Duration // between two things that it does
	diligent float64       // how likely it settles something then
	tags     int
	ending   bool // connection.close is sent
	dead     bool
	keen     bool // it is there for one consumer of the group
}

// simClientChannel is one life of a channel.
type simClientChannel struct {
	c         *simClient
	n         uint16
	answer    frame.Method // that it waits for, 0 if none
	closed    bool
	plain     bool // it had consumers on a queue that is no shard
	recovers  bool
	consumers map[string]*simClientConsumer
	asks      *simClientConsumer // whose consume-ok or cancel-ok is due
	given     []*simDelivery     // to be settled, whether they have arrived or not
	unsettled []*simReceived
	last      uint64 // delivery tag
	again     bool   // that message had been delivered before
	blind     bool   // it has acked all, whatever is on its way
	qos       int
	qosAll    int
	nextAll   int // that is asked for
}

type simClientConsumer struct {
	tag       string
	plain     bool // on a queue that is no shard
	noAck     bool
	limit     int // 0 is none
	unsettled int
	begun     bool
	ended     bool
}

// simReceived is what a client has been sent and has not settled.
type simReceived struct {
	tag uint64
	d   *simDelivery
	k   *simClientConsumer // nil: it was got
}

func newSimClient(se *simSession) *simClient {
	s := se.s
	c := &simClient{se: se, pace: 5*time.Millisecond + s.upTo(200*time.Millisecond), diligent: 1}
	if s.chance(.3) {
		c.diligent = .05 // it keeps what it has for long
	}
	c.up = &pipe{s: s, node: se.node, take: se.fromClient}
	c.coming = simContents{s: s, what: fmt.Sprint("the client of ", se)}
	se.toClient.take = c.take
	c.again()
	return c
}

// channel is a channel as it is now.
func (c *simClient) channel(n uint16) *simClientChannel { return c.channels[n] }

func (ch *simClientChannel) noAck(tag string) bool {
	k := ch.consumers[tag]
	return k != nil && k.noAck
}

func (c *simClient) again() {
	pace := c.pace
	if c.se.s.resting {
		pace = min(pace, 20*time.Millisecond)
	}
	c.se.s.in(pace/2+c.se.s.upTo(pace), func() {
		if !c.dead && !c.ending {
			c.act()
			c.again()
		}
	})
}

// gone: the client has nothing any more.
func (c *simClient) gone(why string) {
	if !c.dead {
		c.se.s.trace("%s: its client is gone: %s", c.se, why)
	}
	c.dead = true
}

// crash ends the client without a word.
func (c *simClient) crash() {
	c.gone("it crashes")
	c.up.end()
}

// leave ends the connection in order.
func (c *simClient) leave() {
	c.ending = true
	c.send(frame.Build(nil, 0, frame.ConnectionClose).Short(200).ShortStr("").Short(0).Short(0), nil)
}

func (c *simClient) send(b frame.Builder, taken func()) {
	f := b.End()
	c.up.send(packet{frame: f, taken: func() {
		c.se.s.trace("%s: its client sends %v", c.se, frame.Frame(f))
		if taken != nil {
			taken()
		}
	}})
}

func (c *simClient) take(packets []packet) {
	for _, p := range packets {
		switch {
		case c.dead:
			return
		case p.frame == nil:
			c.gone("its connection is closed")
		case p.frame.Channel() == 0:
			c.connection(p.frame)
		default:
			c.frame(p.frame)
		}
	}
}

func (c *simClient) connection(f frame.Frame) {
	switch f.Method() {
	case frame.ConnectionClose:
		c.send(frame.Build(nil, 0, frame.ConnectionCloseOk), nil)
		c.crash()
	case frame.ConnectionCloseOk:
		c.crash()
	}
}

func (c *simClient) frame(f frame.Frame) {
	s := c.se.s
	ch := c.channels[f.Channel()]
	if ch == nil {
		s.fail("the client of %s gets %v on a channel that is closed", c.se, f)
	}
	d, tag := c.coming.take(f)
	if d != nil && !ch.closed {
		ch.receive(d, tag)
	}
	if f.Type() != frame.TypeMethod {
		return
	}
	switch m := f.Method(); m {
	case frame.BasicDeliver:
		ch.begins(f)
	case frame.BasicGetOk:
		ch.begins(f)
		ch.answered(frame.BasicGetOk, f)
	case frame.BasicGetEmpty:
		ch.answered(frame.BasicGetOk, f)
	default:
		ch.answered(m, f)
	}
}

// begins takes the method of a message: tags rise by one.
func (ch *simClientChannel) begins(f frame.Frame) {
	a, s := f.Args(), ch.c.se.s
	if f.Method() == frame.BasicDeliver {
		a.ShortStr()
	}
	tag := a.LongLong()
	if tag != ch.last+1 {
		s.fail("the client of %s gets %v behind delivery tag %d", ch.c.se, f, ch.last)
	}
	ch.last = tag
	ch.again = a.Bit()
}

// receive takes a message.
func (ch *simClientChannel) receive(d *simDelivery, tag string) {
	s, k := ch.c.se.s, ch.consumers[tag]
	switch {
	case tag != "" && (k == nil || !k.begun || k.ended):
		s.fail("the client of %s gets %v for the consumer %q, which it does not have", ch.c.se, d, tag)
	case d.to != ch:
		s.fail("the client of %s gets %v on another channel than it was for", ch.c.se, d)
	}
	s.trace("%s: its client gets %v with tag %d for %q", ch.c.se, d, ch.last, tag)
	s.checkReceived(d, ch.again)
	if d.void && !ch.recovers {
		s.fail("the client of %s gets %v behind recover-ok, and it is void", ch.c.se, d)
	}
	if d.noAck || d.settled != never { // with an ack of all, when it was on its way
		return
	}
	ch.unsettled = append(ch.unsettled, &simReceived{ch.last, d, k})
	if k == nil {
		return
	}
	k.unsettled++
	if k.limit > 0 && k.unsettled > k.limit && !k.plain {
		s.fail("the client of %s has %d messages for %q, which may have %d", ch.c.se, k.unsettled, tag, k.limit)
	}
	all := 0
	for _, r := range ch.unsettled {
		if r.k != nil && !r.k.plain {
			all++
		}
	}
	if ch.qosAll > 0 && all > ch.qosAll && !k.plain {
		s.fail("the client of %s has %d messages on a channel that may have %d", ch.c.se, all, ch.qosAll)
	}
}

// answered takes an answer.
func (ch *simClientChannel) answered(m frame.Method, f frame.Frame) {
	s := ch.c.se.s
	if m != ch.answer {
		s.fail("the client of %s gets %v and waits for %v", ch.c.se, f, ch.answer)
	}
	ch.answer = 0
	switch m {
	case frame.BasicConsumeOk:
		ch.asks.begun = true
	case frame.BasicCancelOk:
		ch.asks.ended = true
	case frame.BasicQosOk:
		ch.qosAll = ch.nextAll
	case frame.BasicRecoverOk:
		ch.recovers = false
		for _, r := range ch.unsettled {
			if !r.d.void {
				s.fail("the client of %s gets recover-ok behind %v, which is not void, and can't know that", ch.c.se, r.d)
			}
			if r.k != nil {
				r.k.unsettled--
			}
		}
		ch.unsettled = nil
	case frame.ChannelCloseOk:
		ch.c.channels[ch.n] = nil
	}
}

// live are the consumers that can be cancelled.
func (ch *simClientChannel) live() (tags []string) {
	for _, tag := range sortedKeys(ch.consumers) {
		if k := ch.consumers[tag]; k.begun && !k.ended {
			tags = append(tags, tag)
		}
	}
	return tags
}
