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

	publish   publish // the content that the client is sending
	down      content // the content that the broker is sending
	confirms  confirms
	ledger    *ledger   // of a channel that confirms, from its first publish to a stream on
	comeback  *comeback // what the broker is sending back
	again     []again   // messages that wait for the end of what the client sends, to go to another shard
	later     []again   // the same, for the next tick
	laterSize int       // in octets
	copies    []bccCopy // of BCC headers that publishes had of their own
	wants     wants     // what publishes to streams were like, without a ledger

	due        int // answers of the broker's that the client waits for
	wait       wait
	heldFrames []byte // whole client frames, in order, that came while it waits
	deferred   []byte // frames of ours for the client, until down is complete

	fault    *frame.ChannelError // why we close it
	deadline time.Time           // of the wait for confirms before we close it
	left     bool                // the client closed it while we were about to

	holds     string              // the name of a stream that others wait for while we change it
	lastQueue string              // the virtual queue that a queue.declare answered here last; "" if a real one
	consumers map[string]consumer // by tag, those that read shards
	cancels   int                 // cancels of the client's that are not answered
	watch     *watch              // of shards that may be deleted; nil if it reads none
	tx        bool                // tx.select was sent
	nextGet   int                 // rotation of basic.get; -1 before the first

	lastExchange string // of basic.publish, and what it is
	lastTable    *shard.Table
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
		c.channels[n] = &channel{number: n, due: 1, nextGet: -1} // open-ok is due
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
	ch.again, ch.later, ch.comeback, ch.copies = nil, nil, nil, nil
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
		c.comesBack(ch, f, out)
	} else {
		out.Client.view(f)
	}
	if len(ch.deferred) > 0 && !ch.down.busy() {
		out.Client.own(ch.deferred)
		ch.deferred = nil
	}
}

// fail closes a channel with an error of ours. Nothing more is taken from the
// client on it; publishes that went before are settled first, then the leg is
// closed, what was in flight from the broker goes down, and only then the client
// gets its channel.close.
func (c *Conn) fail(ch *channel, e *frame.ChannelError, out *Out) {
	c.tally.all.refused++
	for rest := ch.heldFrames; len(rest) > 0; {
		f := frame.First(rest)
		rest = rest[len(f):]
		ch.left = ch.left || f.Type() == frame.TypeMethod && f.Method() == frame.ChannelClose
	}
	c.dropHeld(ch)
	ch.fault = e
	ch.state = chFailing
	c.failing++
	if !ch.outstanding() {
		c.closeLeg(ch, out)
	}
}

// outstanding tells whether publishes of the channel are not settled.
func (ch *channel) outstanding() bool {
	if ch.ledger != nil {
		return ch.ledger.outstanding()
	}
	return ch.confirms.outstanding()
}

// waitsToClose tells whether a close waits for confirms.
func (ch *channel) waitsToClose() bool { return ch.state == chFailing || ch.state == chSettling }

// closeSettled goes on with a close that has waited.
func (c *Conn) closeSettled(ch *channel, out *Out) {
	switch ch.state {
	case chFailing:
		c.closeLeg(ch, out)
	case chSettling:
		c.failing--
		c.closeUp(ch, ch.wait.frame, out)
	}
}

// clientCloses takes a client's channel.close. RabbitMQ would have dealt with the
// publishes before it: what comes back of them can be sent again only before it goes
// up.
func (c *Conn) clientCloses(ch *channel, f frame.Frame, out *Out) {
	if ch.ledger == nil || !ch.outstanding() {
		c.sendKept(ch, out)
		c.closeUp(ch, f, out)
		return
	}
	ch.state = chSettling
	ch.deadline = time.Time{}
	ch.wait.frame = append(frame.Frame(nil), f...)
	c.failing++
}

func (c *Conn) closeUp(ch *channel, f frame.Frame, out *Out) {
	ch.state = chClientCloses
	c.owes(ch)
	out.Home.own(f)
}

func (c *Conn) closeLeg(ch *channel, out *Out) {
	c.failing--
	ch.state = chLegClosing
	out.Home.own(frame.AppendChannelClose(nil, ch.number, &frame.ChannelError{Code: frame.ReplySuccess, Text: "Goodbye"}))
}

// closingFromClient takes a frame on a channel that is being closed.
func (c *Conn) closingFromClient(ch *channel, f frame.Frame, out *Out) {
	m := frame.Method(0)
	if f.Type() == frame.TypeMethod {
		m = f.Method()
	}
	switch ch.state {
	case chClientCloses, chBrokerClosed:
		// RabbitMQ ignores all but close-ok and close on such a channel, and
		// minds a content that is left unfinished: it is to see what came. Once an
		// error of ours has swallowed frames it must not see what belongs to them.
		if ch.fault == nil || m == frame.ChannelClose || m == frame.ChannelCloseOk {
			out.Home.view(f)
		}
		if m == frame.ChannelClose {
			c.owes(ch)
		}
		if m == frame.ChannelCloseOk { // the number is free, whatever is still due
			c.remove(ch, out)
		}
	case chSettling: // nothing counts behind its close
	case chFailing, chLegClosing:
		ch.left = ch.left || m == frame.ChannelClose
	case chTold:
		switch m {
		case frame.ChannelClose:
			out.Client.built(out.Client.build(ch.number, frame.ChannelCloseOk))
		case frame.ChannelCloseOk:
			c.remove(ch, out)
		}
	}
}

// closeFromHome takes the broker's channel.close or close-ok.
func (c *Conn) closeFromHome(ch *channel, f frame.Frame, out *Out) {
	if f.Method() == frame.ChannelClose {
		c.brokerCloses(ch, f, out)
		return
	}
	switch {
	case c.closeOkOwed(ch.number) || ch.state != chLegClosing:
		// On a channel that is open again it is the late answer to a close that
		// crossed the broker's.
		out.Client.view(f)
		if ch.state == chClientCloses {
			c.remove(ch, out)
		}
	case ch.left: // the client is gone from it: it wants its answer and no error
		out.Client.built(out.Client.build(ch.number, frame.ChannelCloseOk))
		c.remove(ch, out)
	default:
		c.release(ch, out)
		out.Client.own(frame.AppendChannelClose(nil, ch.number, ch.fault))
		ch.state = chTold
	}
}

// owes notes that a close of the client's went up.
func (c *Conn) owes(ch *channel) {
	if c.owed == nil {
		c.owed = map[uint16]int{}
	}
	c.owed[ch.number]++
}

// closeOkOwed takes a close-ok of the broker's and tells whether it answers a close
// of the client's. They are answered in order, so one of ours comes later.
func (c *Conn) closeOkOwed(n uint16) bool {
	if c.owed[n] == 0 {
		return false
	}
	if c.owed[n]--; c.owed[n] == 0 {
		delete(c.owed, n)
	}
	return true
}

func (c *Conn) brokerCloses(ch *channel, f frame.Frame, out *Out) {
	switch ch.state {
	case chLegClosing: // the two crossed; ours is still to be answered
		out.Home.built(out.Home.build(ch.number, frame.ChannelCloseOk))
		return
	case chFailing:
		c.failing--
		ch.state = chBrokerClosed
		if ch.left {
			out.Home.built(out.Home.build(ch.number, frame.ChannelCloseOk))
			out.Client.built(out.Client.build(ch.number, frame.ChannelCloseOk))
			c.remove(ch, out)
			return
		}
	case chOpen:
		ch.state = chBrokerClosed
	case chSettling: // the two crossed, as if the client's had gone up
		c.failing--
		out.Home.own(ch.wait.frame)
		c.owes(ch)
		ch.state = chBrokerClosed
	}
	if ch.wait.what == waitDeclareOk {
		f = c.inTheWay(ch, f)
	}
	out.Client.view(f)
	c.release(ch, out)
	// The rest of a message and a close of the client's may follow: the broker
	// wants to see whole what it is to ignore.
	if ch.publish.state == pubStream {
		out.Home.own(ch.publish.method)
	}
	if ch.wait.what == waitErrand && ch.wait.frame.Method() == frame.BasicPublish {
		out.Home.own(ch.wait.frame)
	}
	held := ch.heldFrames
	c.dropHeld(ch)
	for ; len(held) > 0; held = held[len(frame.First(held)):] {
		c.channelFromClient(ch.number, frame.First(held), out)
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
		ch.ledger.settle(0, tag, multiple, f.Method() == frame.BasicAck)
		c.tell(ch, out)
		return true
	}
	n := ch.confirms.settle(tag, multiple)
	if f.Method() == frame.BasicAck {
		c.tally.all.confirmed += n
	} else {
		c.tally.all.nacked += n
	}
	if !ch.outstanding() {
		c.closeSettled(ch, out)
	}
	return false
}
