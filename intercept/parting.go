package intercept

import (
	"time"

	"amqproxy/frame"
)

// Farewell is the first connection.close of a session.
type Farewell struct {
	By   string // "client", "broker", "proxy", or "" while there is none
	Code uint16
	Text string
}

// Farewell tells who closed the connection first, and with what words.
func (c *Conn) Farewell() Farewell { return c.farewell }

func (c *Conn) closedBy(who string, f frame.Frame) {
	if c.farewell.By == "" {
		a := f.Args()
		c.farewell = Farewell{By: who, Code: a.Short(), Text: string(a.ShortStr())}
	}
}

// Orderly tells whether close and close-ok were exchanged, so that the end of a
// socket is no fault.
func (c *Conn) Orderly() bool { return c.ordered }

// Shut ends the session for a reason of ours: the client's frames count no more,
// confirms that are due may still come for settleTime, then both sides are told.
func (c *Conn) Shut(why *frame.ConnError, out *Out) {
	if c.phase != running || c.farewell.By != "" { // a close is under way already
		return
	}
	c.phase, c.parting = settling, why
	c.farewell = Farewell{By: "proxy", Code: why.Code, Text: why.Text}
	c.proveAll(out)
	if !c.unconfirmed() {
		c.part(out)
	}
}

// Fault ends the session at once, because what the client sent can't be read.
func (c *Conn) Fault(why *frame.ConnError, out *Out) {
	if c.phase == parted {
		return
	}
	c.farewell = Farewell{By: "proxy", Code: why.Code, Text: why.Text}
	c.parting, c.broken = why, why
	c.part(out)
}

// Broken is the fault of the client's that has ended the session, if one has.
func (c *Conn) Broken() error {
	if c.broken == nil {
		return nil
	}
	return c.broken
}

// unconfirmed tells whether anything that was published is not settled, for a stream or
// not.
func (c *Conn) unconfirmed() bool {
	for _, ch := range c.channels {
		if ch != nil && (ch.outstanding() || ch.unsettled()) {
			return true
		}
	}
	return false
}

// unsettled tells the same of what was published to streams.
func (c *Conn) unsettled() bool {
	for _, ch := range c.channels {
		if ch != nil && ch.unsettled() {
			return true
		}
	}
	return false
}

func (c *Conn) proveAll(out *Out) {
	for _, ch := range c.channels {
		if ch != nil && ch.state == chOpen {
			c.prove(ch, out)
		}
	}
}

// leave lets the client's connection.close go up when its publishes are settled, or
// after settleTime.
func (c *Conn) leave(now time.Time, out *Out) {
	switch {
	case c.leaving == nil || c.phase == parted:
		return
	case c.deadline.IsZero():
		c.deadline = now.Add(settleTime)
	case now.After(c.deadline):
		c.goUp(out)
	}
}

func (c *Conn) goUp(out *Out) {
	out.Home.own(c.leaving)
	c.leaving = nil
}

// part sends both sides connection.close. The broker gets the client's manner of
// ending, so that it has nothing to complain of in its log.
func (c *Conn) part(out *Out) {
	c.phase = parted
	c.abandonGroups(out)
	out.Home.own(frame.AppendConnClose(nil, &frame.ConnError{Code: frame.ReplySuccess, Text: "Goodbye"}))
	out.Client.own(frame.AppendConnClose(nil, c.parting))
}

// partingClient takes what a client still sends when we are to close.
func (c *Conn) partingClient(f frame.Frame, out *Out) {
	if f.Channel() != 0 {
		return
	}
	switch f.Method() {
	case frame.ConnectionClose: // it was faster
		out.Client.built(out.Client.build(0, frame.ConnectionCloseOk))
		fallthrough
	case frame.ConnectionCloseOk:
		c.ordered = true
		out.Done = true
	}
}

// HomeDown says that the home link is gone. Without the farewells of the
// protocol the client is told with why.
func (c *Conn) HomeDown(why *frame.ConnError, out *Out) {
	if c.ordered || c.phase == parted {
		return
	}
	c.phase = parted
	c.abandonGroups(out)
	switch c.farewell.By {
	case "client": // it waits for nothing but this
		c.ordered = true
		out.Client.built(out.Client.build(0, frame.ConnectionCloseOk))
	case "broker": // the client was told, and has to answer
	default:
		c.farewell = Farewell{By: "broker", Code: why.Code, Text: why.Text}
		out.Client.own(frame.AppendConnClose(nil, why))
	}
}

// End says that the session is over: every consumer's place is given back.
func (c *Conn) End(out *Out) {
	for _, ch := range c.channels {
		if ch != nil {
			c.release(ch, out)
		}
	}
	c.endGroups(out)
	c.tally.flush()
}
