package intercept

import (
	"time"

	"amqproxy/frame"
)

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
	c.prove(ch, out)
	c.goOn(ch, out)
}

// outstanding tells whether publishes of the channel are not settled.
func (ch *channel) outstanding() bool {
	if ch.ledger != nil {
		return ch.ledger.outstanding()
	}
	return ch.confirms.outstanding()
}

// unsettled tells whether the fate of publishes to streams is not known: they may come
// back, and have to be sent again.
func (ch *channel) unsettled() bool {
	return (ch.state == chOpen || ch.waitsToClose()) && (ch.anyUnproven() || ch.onHold() || ch.ledger != nil && ch.ledger.outstanding())
}

// onHold tells whether frames of the client's wait for an errand or a link.
func (ch *channel) onHold() bool {
	return ch.state == chOpen && (ch.wait.what == waitErrand || ch.wait.what == waitLink)
}

// wentOn goes on with the close of the connection, if it waits for what a channel had on
// hold.
func (c *Conn) wentOn(ch *channel, out *Out) {
	if c.leaving != nil || c.phase == settling {
		c.prove(ch, out)
		c.goOn(ch, out)
	}
}

// anyUnproven tells whether what was published without confirms may still come back, or
// waits for its shard.
func (ch *channel) anyUnproven() bool {
	for g := range ch.legs {
		if g.unproven {
			return true
		}
	}
	return ch.ledger == nil && len(ch.parked) > 0
}

// prove has the brokers answer on a channel without confirms: what comes back of the
// publishes before it comes before the answer.
func (c *Conn) prove(ch *channel, out *Out) {
	for g := range ch.legs {
		switch {
		case !g.unproven || g.proof:
		case ch.publish.state == pubPass && ch.publish.leg == g: // no method may come between, and the message is no whole one
			g.unproven = false
		default:
			c.sendKept(ch, out)
			c.ask(ch, g, out)
		}
	}
}

// ask asks for an answer and nothing else.
func (c *Conn) ask(ch *channel, g *leg, out *Out) {
	g.proof, g.before = true, g.due
	g.due++
	to := out.to(g.link)
	to.built(to.build(ch.number, frame.ChannelFlow).Octet(1))
}

// proven takes a broker's flow-ok: true if it is the answer to ask.
func (c *Conn) proven(ch *channel, g *leg, out *Out) bool {
	if !g.proof || g.before > 0 {
		return false
	}
	g.proof = false
	g.unproven = len(ch.later) > 0 // these are sent at the next tick, and may come back again
	c.moves(ch, g, out)
	if g == &ch.leg {
		c.replied(ch, frame.ChannelFlowOk, out)
	} else {
		g.due--
	}
	c.goOn(ch, out)
	return true
}

// goOn goes on with a close that waits, if all that was published is settled.
func (c *Conn) goOn(ch *channel, out *Out) {
	if ch.outstanding() || ch.anyUnproven() {
		return
	}
	c.closeSettled(ch, out)
	if c.leaving != nil && !c.unsettled() {
		c.goUp(out)
	}
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
	if !ch.unsettled() {
		c.closeUp(ch, f, out)
		return
	}
	ch.state = chSettling
	ch.deadline = time.Time{}
	ch.wait.frame = append(frame.Frame(nil), f...)
	c.failing++
	c.prove(ch, out)
}

func (c *Conn) closeUp(ch *channel, f frame.Frame, out *Out) {
	c.closeLegs(ch, out)
	ch.state = chClientCloses
	c.owes(ch)
	out.Home.own(f)
}

func (c *Conn) closeLeg(ch *channel, out *Out) {
	c.closeLegs(ch, out)
	c.failing--
	ch.state = chLegClosing
	out.Home.own(frame.AppendChannelClose(nil, ch.number, &frame.ChannelError{Code: frame.ReplySuccess, Text: "Goodbye"}))
}

// closingFromClient takes a frame on a channel that is being closed.
func (c *Conn) closingFromClient(ch *channel, f frame.Frame, out *Out) {
	m := frame.Method(0)
	if f.Type() == frame.TypeMethod {
		m = f.Method()
	} else if ch.elsewhere.busy() {
		ch.elsewhere.next(f)
		return
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
	if ch.wait.what == waitLink {
		out.Home.own(ch.wait.frame)
	}
	if ch.wait.what == waitErrand && ch.wait.frame.Method() == frame.BasicPublish {
		out.Home.own(ch.wait.frame)
	}
	if p := &ch.publish; p.state != pubNone && p.state != pubStream && p.leg != &ch.leg {
		ch.elsewhere = p.content
	}
	held := ch.heldFrames
	c.dropHeld(ch)
	for ; len(held) > 0; held = held[len(frame.First(held)):] {
		c.channelFromClient(ch.number, frame.First(held), out)
	}
	if c.leaving != nil && !c.unsettled() {
		c.goUp(out)
	}
}
