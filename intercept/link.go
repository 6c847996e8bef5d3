package intercept

import (
	"fmt"
	"slices"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// link is one upstream connection of the session: the home link, or a publish or consume link to
// the broker of another node.
type link struct {
	index      int // in Conn.links and Out.Links; -1 is the home link
	to         Dial
	state      linkState
	blocked    bool      // its broker has said connection.blocked
	stuck      bool      // it takes nothing, so that the silence is no sign of a stall
	stuckAt    time.Time // the tick when that was first so
	held       bool      // for stall-timeout: it is avoided
	channelMax uint16
	closing    map[uint16]bool // channels whose close-ok is due
	why        string          // it is refused or failed
	again      time.Time       // when it may be tried again
	readers    []*reader       // of a consume link, by channel number
	wrote      bool            // something was published on it since the last tick
	used       time.Time       // the last tick with that
	suspects   int             // legs that are suspect
}

type linkState uint8

const (
	linkNone     linkState = iota
	linkDialling           // the shell is at it: who needs it waits
	linkUp
	linkFailed  // it can't be had directly: the home link may do instead
	linkStalled // its broker does not answer
	linkRefused // its broker does not let it in
)

// Dial is a link that the shell is to open. As names the account, if it is not the
// client's own.
type Dial struct {
	Link    int
	Node    string
	Address string // "" is this node's own
	As      shard.Login
	Reads   bool // a consume link
	Again   bool // it could not be had a moment ago
}

// Down is why there is no link.
type Down uint8

const (
	Failed  Down = iota // it can't be had: nobody there, or no way to it
	Stalled             // its broker does not answer in time
	Refused             // its broker does not let us in
	Lost                // it was up, and is no more
)

// redialTime is how long a link that could not be had is not tried again.
const redialTime = 2 * time.Second

// linkIdle is how long a link that nothing is published on stays.
const linkIdle = time.Minute

// usable tells whether more may be published on the link.
func (l *link) usable() bool { return l.state == linkUp && !l.blocked && !l.held }

// linkTo gives the link to a node's broker, which is dialled if it is not there; nil if
// the session has too many.
func (c *Conn) linkTo(to Dial, out *Out) *link {
	var l *link
	for _, have := range c.links {
		if have.to.Node == to.Node && have.to.As == to.As && have.to.Reads == to.Reads {
			l = have
			break
		}
	}
	if l == nil {
		if len(c.links) >= c.cfg.MaxLinks {
			return nil
		}
		to.Link = len(c.links)
		l = &link{index: len(c.links), to: to}
		c.links = append(c.links, l)
	}
	switch {
	case l.state == linkNone:
		l.state, l.to.Again = linkDialling, false
	case l.due(c.now): // in the background: what it is for goes on as if it still failed
		l.again, l.to.Again = c.now.Add(redialTime+c.cfg.StallTimeout), true
	default:
		return l
	}
	l.to.Address = to.Address
	out.Dials = append(out.Dials, l.to)
	return l
}

// due tells whether a link that could not be had may be tried again.
func (l *link) due(now time.Time) bool {
	return (l.state == linkFailed || l.state == linkStalled || l.state == linkRefused) && !now.Before(l.again)
}

// LinkUp says that a link is open, on which channels up to channelMax may be used.
func (c *Conn) LinkUp(i int, channelMax uint16, out *Out) {
	l := c.links[i]
	l.state, l.channelMax, l.used = linkUp, channelMax, time.Time{}
	l.blocked, l.stuck, l.held = false, false, false
	l.closing = nil
	c.linkNews(out)
}

// LinkDown says that a link could not be had, or is lost: text tells why.
func (c *Conn) LinkDown(i int, why Down, text string, out *Out) {
	l := c.links[i]
	l.why, l.closing = text, nil
	switch why {
	case Failed:
		l.state, l.again = linkFailed, c.now.Add(redialTime)
	case Stalled:
		l.state, l.again = linkStalled, c.now.Add(redialTime)
	case Refused:
		l.state, l.again = linkRefused, c.now.Add(redialTime)
	case Lost:
		l.state, l.again = linkNone, c.now.Add(redialTime)
		if l.suspects > 0 || l.stuck {
			l.state = linkStalled
		} else if l.used.IsZero() { // as soon as it was up
			l.state = linkFailed
		}
	}
	for _, ch := range c.channels {
		if ch != nil && ch.legTo(l) != nil {
			c.legLost(ch, ch.legTo(l), out)
		}
	}
	c.loseReaders(l, out)
	c.linkNews(out)
}

// Stuck tells whether a link, or with -1 the home link, takes what it is given.
func (c *Conn) Stuck(i int, stuck bool) { c.linkAt(i).stuck = stuck }

// Spared tells whether new publishes avoid a link, or with -1 the home link: what waits
// for it need not stop the reading of the client.
func (c *Conn) Spared(i int) bool {
	l := c.linkAt(i)
	return !l.usable() || l.suspects > 0
}

func (c *Conn) linkAt(i int) *link {
	if i < 0 {
		return &c.home
	}
	return c.links[i]
}

// linkNews lets those go on that wait for a link, or for one that works again.
func (c *Conn) linkNews(out *Out) {
	c.rerouteAll()
	for _, ch := range c.channels {
		if ch == nil {
			continue
		}
		c.linkThere(ch, out)
		c.unpark(ch, out)
		c.farGetGoesOn(ch, out)
	}
	for _, m := range c.groupMembers() {
		c.follow(m, out)
	}
}

// linkThere has a channel go on that waits for a link.
func (c *Conn) linkThere(ch *channel, out *Out) {
	if ch.wait.what != waitLink {
		return
	}
	header := ch.wait.frame
	ch.wait = wait{}
	c.contentFromClient(ch, header, out)
	c.resume(ch, out)
	c.wentOn(ch, out)
}

// rerouteAll has every channel look anew for the ways that its publishes go.
func (c *Conn) rerouteAll() {
	for _, ch := range c.channels {
		if ch != nil {
			ch.lastSnap = nil
		}
	}
}

// FromLink takes a frame from another link than the home link.
func (c *Conn) FromLink(i int, f frame.Frame, out *Out) error {
	l, n := c.links[i], f.Channel()
	if c.phase == parted && !l.to.Reads || l.state != linkUp || f.Type() == frame.TypeHeartbeat {
		return nil
	}
	if n == 0 {
		c.connectionFromLink(l, f, out)
		return nil
	}
	if l.to.Reads {
		return c.readerFrame(l, n, f, out)
	}
	if l.closing[n] {
		c.closingFromLink(l, n, f, out)
		return nil
	}
	ch := c.channel(n)
	if ch == nil || ch.legTo(l) == nil {
		return &frame.ConnError{Code: frame.ChannelErrorCode, Text: fmt.Sprintf("a frame on channel %d, which is not open", n)}
	}
	g := ch.legTo(l)
	if f.Type() != frame.TypeMethod {
		c.contentFromLink(ch, g, f, out)
		return nil
	}
	c.legMethod(ch, g, f, out)
	return nil
}

// connectionFromLink takes a frame on channel 0 of such a link. Its end is told by
// LinkDown.
func (c *Conn) connectionFromLink(l *link, f frame.Frame, out *Out) {
	if f.Type() != frame.TypeMethod {
		return
	}
	switch f.Method() {
	case frame.ConnectionBlocked:
		l.blocked = true
	case frame.ConnectionUnblocked:
		l.blocked = false
		c.linkNews(out)
	}
}

// closingFromLink takes what comes on a channel that we have closed.
func (c *Conn) closingFromLink(l *link, n uint16, f frame.Frame, out *Out) {
	if f.Type() != frame.TypeMethod {
		return
	}
	switch f.Method() {
	case frame.ChannelClose: // the two crossed; ours is still to be answered
		to := out.to(l)
		to.built(to.build(n, frame.ChannelCloseOk))
	case frame.ChannelCloseOk:
		delete(l.closing, n)
		if ch := c.channel(n); ch != nil {
			c.linkThere(ch, out)
		}
	}
}

// tickLinks has links tried again that could not be had, and gives up those that nothing
// was published on for a while.
func (c *Conn) tickLinks(out *Out) {
	c.tickStuck(&c.home, out)
	for _, l := range c.links {
		c.tickStuck(l, out)
		if l.due(c.now) {
			c.rerouteAll()
		}
		if l.wrote || l.used.IsZero() {
			l.wrote, l.used = false, c.now
		}
		if l.state != linkUp || c.now.Sub(l.used) < linkIdle || c.busy(l, out) {
			continue
		}
		for _, ch := range c.channels {
			if ch != nil && ch.legTo(l) != nil {
				ch.removeLeg(l)
			}
		}
		l.state, l.closing = linkNone, nil
		out.Drops = append(out.Drops, l.index)
		c.linkNews(out)
	}
}

// tickStuck avoids a link that takes nothing for stall-timeout, until it does.
func (c *Conn) tickStuck(l *link, out *Out) {
	switch {
	case !l.stuck:
		l.stuckAt = time.Time{}
	case l.stuckAt.IsZero():
		l.stuckAt = c.now
	}
	held := l.stuck && c.cfg.StallTimeout > 0 && c.now.Sub(l.stuckAt) >= c.cfg.StallTimeout
	if held != l.held {
		l.held = held
		c.linkNews(out)
	}
}

// breakLink gives up a link on which a message has begun that has no end: its broker takes
// nothing else on that channel but the rest.
func (c *Conn) breakLink(l *link, out *Out) {
	out.Drops = append(out.Drops, l.index)
	c.LinkDown(l.index, Lost, "a message was not finished", out)
}

// busy tells whether anything on a link is not settled; without confirms it asks.
func (c *Conn) busy(l *link, out *Out) bool {
	if len(l.closing) > 0 || slices.ContainsFunc(l.readers, func(r *reader) bool { return r != nil }) {
		return true
	}
	for _, ch := range c.channels {
		if ch == nil || ch.legTo(l) == nil {
			continue
		}
		g := ch.legTo(l)
		if g.unproven && !g.proof && !(ch.publish.leg == g && ch.publish.state == pubPass) {
			c.ask(ch, g, out)
		}
		if g.proof || ch.publish.leg == g && ch.publish.state == pubPass || ch.ledger != nil && ch.ledger.busy(g.book) {
			return true
		}
	}
	return false
}
