package intercept

import (
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// channel is one channel of the client with its leg.
type channel struct {
	number uint16
	state  chState

	leg               // the home leg
	more      []*leg  // those on publish links, by the link's index
	publish   publish // the content that the client is sending
	elsewhere content // the rest of one that went to another broker, when this one has closed the channel
	confirms  confirms
	ledger    *ledger        // of a channel that confirms, from its first publish to a stream on
	again     []again        // messages that wait for the end of what the client sends, to be sent again
	later     []again        // the same, for the next tick
	laterSize int            // in octets
	copies    []bccCopy      // of BCC headers that publishes had of their own
	wants     wants          // what publishes to streams were like, without a ledger
	parked    []parked       // messages that wait for their shard
	parkedFor map[uint32]int // how many, by shard
	tried     bool           // to send them on since the last tick
	postponed bool           // until the message in hand has ended

	wait       wait
	heldFrames []byte // whole client frames, in order, that came while it waits
	deferred   []byte // frames of ours for the client, until down is complete

	fault      *frame.ChannelError // why we close it
	failsAfter *frame.ChannelError // why it is to be closed when the message in hand has ended
	deadline   time.Time           // of the wait for confirms before we close it
	left       bool                // the client closed it while we were about to

	holds     string              // the name of a stream that others wait for while we change it
	lastQueue string              // the virtual queue that a queue.declare answered here last; "" if a real one
	consumers map[string]consumer // by tag, those that read shards
	cancels   int                 // cancels of the client's that are not answered
	watch     *watch              // of shards that may be deleted; nil if it reads none
	tx        bool                // tx.select was sent
	homeTag   uint64              // of the last delivery of the home leg
	qos       int                 // how much a new consumer may have unsettled
	qosAll    int                 // and the whole channel; both: 0 is no limit
	feed      *feed               // nil if its home leg alone brings it messages
	quiet     quiet
	nextGet   int // rotation of basic.get; -1 before the first

	lastExchange string // of basic.publish, and what it is
	lastTable    *shard.Table
	route        []*leg   // the ways to its nodes, as far as they are known
	detours      []uint64 // by the link's index: up to where the home leg has carried what is for its broker, see overtakes
	lastSnap     *shard.Snapshot
	lastDeliver  string          // exchange of the last delivery or return
	lastCounters *shard.Counters // its counters, if it is a stream
	deliverSnap  *shard.Snapshot
	lastHeader   header // of the last publish that was like many
}

type chState uint8

const (
	chOpen         chState = iota
	chClientCloses         // the client's channel.close went up
	chBrokerClosed         // the broker's channel.close went down
	chSettling             // the client's channel.close waits for the confirms that are due
	chFailing              // we are to close it, and wait for the confirms that are due
	chLegClosing           // our channel.close went up
	chTold                 // our channel.close went down
)

// wait is what a channel waits for before its client's next frame counts.
type wait struct {
	what   waiting
	kind   Kind
	serial uint32
	name   string      // the stream that it is about
	frame  frame.Frame // the client's method that it is about
	asked  shard.Declared
	get    get
}

type waiting uint8

const (
	waitNothing waiting = iota
	waitReplies
	waitErrand
	waitDeclareOk
	waitDeleteOk
	waitGet
	waitLink
	waitFarGet
)

// content follows the frames of one message.
type content struct {
	header bool   // the header frame is due
	body   uint64 // octets of the body that are due
}

func (k *content) begin() { *k = content{header: true} }

func (k *content) busy() bool { return k.header || k.body > 0 }

// next takes a header or body frame.
func (k *content) next(f frame.Frame) {
	switch f.Type() {
	case frame.TypeHeader:
		k.header = false
		k.body, _ = frame.BodySize(f)
	case frame.TypeBody:
		k.body -= min(k.body, uint64(len(f.Payload())))
	}
}

func (c *Conn) channel(n uint16) *channel {
	if int(n) < len(c.channels) {
		return c.channels[n]
	}
	return nil
}

// unopened takes a frame on a channel that is closed.
func (c *Conn) unopened(n uint16, f frame.Frame, out *Out) {
	if f.Type() == frame.TypeMethod && f.Method() == frame.ChannelOpen {
		for len(c.channels) <= int(n) {
			c.channels = append(c.channels, nil)
		}
		c.channels[n] = &channel{number: n, leg: leg{link: &c.home, due: 1}, nextGet: -1} // open-ok is due
		c.open++
	}
	out.Home.view(f)
}

// remove forgets a channel whose number may be used again.
func (c *Conn) remove(ch *channel, out *Out) {
	c.release(ch, out)
	c.dropHeld(ch)
	if ch.waitsToClose() {
		c.failing--
	}
	if ch.ledger != nil {
		c.ledgers--
	}
	c.channels[ch.number] = nil
	c.open--
}

// release gives back what the channel has of the node's.
func (c *Conn) release(ch *channel, out *Out) {
	if ch.holds != "" {
		out.Abandoned = append(out.Abandoned, ch.holds)
		ch.holds = ""
	}
	for _, k := range ch.consumers {
		c.leaves(k, out)
	}
	ch.consumers = nil
	if len(ch.later) > 0 {
		c.waiting--
	}
	if ch.ledger != nil {
		ch.ledger.forgetAll()
	}
	c.closeLegs(ch, out)
	c.dropParked(ch)
	for i := range ch.again {
		if ch.again[i].nacked() {
			c.copies.end(&ch.again[i].copied)
		}
	}
	ch.again, ch.later, ch.comeback, ch.copies = nil, nil, nil, nil
	c.dropFeed(ch, out)
	c.unwatch(ch, out)
}

// hold keeps a client's frame until the channel waits no more.
func (c *Conn) hold(ch *channel, f frame.Frame) {
	ch.heldFrames = append(ch.heldFrames, f...)
	c.heldSize += len(f)
}

func (c *Conn) dropHeld(ch *channel) {
	c.heldSize -= len(ch.heldFrames)
	ch.heldFrames = nil
	ch.wait = wait{}
	c.copies.end(&ch.publish.kept.copied)
	if c.held == ch {
		c.held = nil
	}
	ch.publish = publish{}
}

// resume takes the frames that were held, until one makes the channel wait again.
func (c *Conn) resume(ch *channel, out *Out) {
	rest := ch.heldFrames
	ch.heldFrames = nil // openFromClient must not see them as held
	c.heldSize -= len(rest)
	for len(rest) > 0 && ch.wait.what == waitNothing && c.phase == running {
		f := frame.First(rest)
		rest = rest[len(f):]
		c.channelFromClient(ch.number, f, out) // it may close the channel and open it again
	}
	if c.held == ch { // its method is in memory of its own already
		c.held = nil
	}
	if len(rest) > 0 {
		ch.heldFrames = rest
		c.heldSize += len(rest)
	}
}

// toClient sends the client frames of ours on a channel, between contents.
func (c *Conn) toClient(ch *channel, b []byte, out *Out) {
	if ch.down.busy() {
		ch.deferred = append(ch.deferred, b...)
		return
	}
	out.Client.own(b)
}

func (c *Conn) replyUnless(ch *channel, nowait bool, m frame.Method, out *Out) {
	if !nowait {
		c.toClient(ch, frame.Build(nil, ch.number, m).End(), out)
	}
}

// contentFromHome takes a header or body frame from the broker.
func (c *Conn) contentFromHome(ch *channel, f frame.Frame, out *Out) {
	ch.down.next(f)
	if ch.comeback != nil {
		c.comesBack(ch, &ch.leg, f, out)
	} else {
		out.Client.view(f)
	}
	if len(ch.deferred) > 0 && !ch.down.busy() {
		out.Client.own(ch.deferred)
		ch.deferred = nil
	}
	if !ch.down.busy() {
		c.feedOn(ch, out)
	}
}
