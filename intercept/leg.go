package intercept

import (
	"fmt"
	"math"
	"strings"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// leg is an upstream channel that serves a client channel: the home leg, or one on a
// publish link, which has the same number there and carries publishes to streams only.
type leg struct {
	link     *link
	book     int       // its number in the ledger
	down     content   // the content that the broker is sending
	comeback *comeback // what the broker is sending back
	due      int       // answers of the broker's that are due
	before   int       // answers that come before flow-ok, when proof is due
	unproven bool      // some publishes without a ledger may still come back
	proof    bool      // a flow-ok that tells is due
	suspect  bool      // it has publishes outstanding, and its broker settles none
	closed   bool
}

// usable tells whether more may be published on the leg.
func (g *leg) usable() bool { return g.link.usable() && !g.suspect && !g.closed }

// way is where a publish to a shard can go.
type way uint8

const (
	wayOpen    way = iota
	wayWait        // a link is being opened, or a channel on it closed
	wayNone        // its broker can't be had now: on-unavailable
	wayRefused     // there is no way, and waiting does not help
)

// way finds the leg for shard i of a stream. why is what a client is told that is refused.
func (c *Conn) way(ch *channel, t *shard.Table, i int, out *Out) (g *leg, w way, why string) {
	s := &t.Shards[i]
	if s.Local {
		return c.homeWay(ch)
	}
	broker := c.snap.Broker(s.Node)
	as := t.Settings.PublishAs
	switch {
	case ch.tx && !broker.Beside:
		return nil, wayRefused, "a transaction can't reach the broker of node '" + s.Node + "', which is not in one cluster with this one"
	case broker.Apart != "":
		return c.indirect(ch, broker, wayRefused, broker.Apart)
	case ch.tx || broker.Address == "":
		return c.homeWay(ch)
	case as.User == "" && !c.cfg.KnowsLogin:
		return c.indirect(ch, broker, wayRefused, "its login can't be used for the broker of node '"+s.Node+"': only PLAIN and AMQPLAIN can, or an account in publish-as")
	}
	l := c.linkTo(Dial{Node: s.Node, Address: broker.Address, As: as}, out)
	if l == nil {
		return c.indirect(ch, broker, wayRefused, fmt.Sprintf("the connection has %d links to other brokers already (max-links-per-session)", len(c.links)))
	}
	if g, w, why = c.wayBy(ch, s, broker, l, out); w == wayOpen && c.overtakes(ch, g, l) {
		return nil, wayWait, ""
	}
	return g, w, why
}

// wayBy is the way to a shard with a link to its broker.
func (c *Conn) wayBy(ch *channel, s *shard.Shard, broker shard.Broker, l *link, out *Out) (g *leg, w way, why string) {
	switch l.state {
	case linkDialling:
		return nil, wayWait, ""
	case linkFailed:
		return c.indirect(ch, broker, wayNone, l.why)
	case linkRefused:
		return c.indirect(ch, broker, wayRefused, l.why)
	case linkStalled:
		return c.unlessLed(ch, s, broker)
	}
	if !l.usable() {
		return c.unlessLed(ch, s, broker)
	}
	if g = ch.legTo(l); g == nil {
		if l.closing[ch.number] {
			return nil, wayWait, ""
		}
		if l.channelMax > 0 && ch.number > l.channelMax {
			return c.indirect(ch, broker, wayRefused, fmt.Sprintf("the broker of node '%s' takes no more than %d channels", s.Node, l.channelMax))
		}
		g = c.openLeg(ch, l, out)
	}
	if g.suspect {
		return c.unlessLed(ch, s, broker)
	}
	return g, wayOpen, ""
}

// onDetour says that publishes for a link's broker go by the home link now.
const onDetour = math.MaxUint64

// overtakes tells whether a publish by leg g, of link l, could get to the shard before others
// that went by the home link while this link could not be had: that is so until these are
// settled. Without confirms nobody knows when that is.
func (c *Conn) overtakes(ch *channel, g *leg, l *link) bool {
	for len(ch.detours) <= l.index {
		ch.detours = append(ch.detours, 0)
	}
	upTo := &ch.detours[l.index]
	switch {
	case g == &ch.leg:
		*upTo = onDetour
		return false
	case *upTo == 0 || ch.ledger == nil:
		return false
	}
	if *upTo = min(*upTo, ch.ledger.books[0].sent); ch.ledger.unsettled(0, *upTo) {
		return true
	}
	*upTo = 0
	return false
}

func (c *Conn) homeWay(ch *channel) (*leg, way, string) {
	if !ch.leg.usable() && !ch.tx {
		return nil, wayNone, ""
	}
	return &ch.leg, wayOpen, ""
}

// indirect is the way by the home link, which a cluster has.
func (c *Conn) indirect(ch *channel, b shard.Broker, otherwise way, why string) (*leg, way, string) {
	if b.Beside {
		return c.homeWay(ch)
	}
	return nil, otherwise, why
}

// unlessLed is the way to a shard whose broker does not answer: other brokers of the
// cluster serve a quorum queue.
func (c *Conn) unlessLed(ch *channel, s *shard.Shard, b shard.Broker) (*leg, way, string) {
	if s.Quorum && b.Beside {
		return c.homeWay(ch)
	}
	return nil, wayNone, ""
}

// legTo is the channel's leg on a publish link; nil if it has none.
func (ch *channel) legTo(l *link) *leg {
	if l.index < len(ch.more) {
		return ch.more[l.index]
	}
	return nil
}

// legs calls yield with all legs, the home leg first.
func (ch *channel) legs(yield func(*leg) bool) {
	if !yield(&ch.leg) {
		return
	}
	for _, g := range ch.more {
		if g != nil && !yield(g) {
			return
		}
	}
}

// openLeg opens a leg. The broker takes what follows at once.
func (c *Conn) openLeg(ch *channel, l *link, out *Out) *leg {
	g := &leg{link: l, book: l.index + 1, due: 1}
	for len(ch.more) <= l.index {
		ch.more = append(ch.more, nil)
	}
	ch.more[l.index] = g
	to := out.to(l)
	to.built(to.build(ch.number, frame.ChannelOpen).ShortStr(""))
	if ch.confirms.on {
		c.confirmLeg(ch, g, out)
	}
	return g
}

// confirmLeg turns confirms on, as they are on the client's channel.
func (c *Conn) confirmLeg(ch *channel, g *leg, out *Out) {
	to := out.to(g.link)
	to.built(to.build(ch.number, frame.ConfirmSelect).Octet(1))
	if ch.ledger != nil {
		ch.ledger.begins(g.book)
	}
}

// legMethod takes a method from the broker of a publish link.
func (c *Conn) legMethod(ch *channel, g *leg, f frame.Frame, out *Out) {
	switch m := f.Method(); m {
	case frame.ChannelOpenOk:
		g.due--
		g.before = max(g.before-1, 0)
	case frame.BasicAck, frame.BasicNack:
		a := f.Args()
		tag, multiple := a.LongLong(), a.Bit()
		if ch.ledger != nil && a.OK() {
			c.settleLeg(ch, g, tag, multiple, m == frame.BasicAck, out)
		}
	case frame.BasicReturn:
		c.returned(ch, f)
		c.beginsComeback(ch, g, f)
	case frame.ChannelFlowOk:
		c.proven(ch, g, out)
	case frame.ChannelFlow: // RabbitMQ has not sent it for years
		to := out.to(g.link)
		to.built(to.build(ch.number, frame.ChannelFlowOk).Octet(1))
	case frame.ChannelClose:
		c.legRefused(ch, g, f, out)
	}
}

// contentFromLink takes a header or body frame of what comes back on a publish link.
func (c *Conn) contentFromLink(ch *channel, g *leg, f frame.Frame, out *Out) {
	if !g.down.busy() || g.comeback == nil {
		return // nobody has asked for it
	}
	g.down.next(f)
	c.comesBack(ch, g, f, out)
}

// legRefused takes a broker's channel.close: the client hears it as if it had come from
// its own broker.
func (c *Conn) legRefused(ch *channel, g *leg, f frame.Frame, out *Out) {
	to := out.to(g.link)
	to.built(to.build(ch.number, frame.ChannelCloseOk))
	a := f.Args()
	e := &frame.ChannelError{Code: a.Short()}
	_, e.Text, _ = strings.Cut(string(a.ShortStr()), " - ")
	e.Method = frame.Method(uint32(a.Short())<<16 | uint32(a.Short()))
	c.legLost(ch, g, out)
	switch {
	case c.channels[ch.number] != ch || ch.state != chOpen:
	case ch.publish.state == pubPass: // no method may come between the frames of a message
		ch.failsAfter = e
	default:
		c.fail(ch, e, out)
	}
}

// legLost says that a leg is no more. What was published on it and is not settled may be
// stored or not.
func (c *Conn) legLost(ch *channel, g *leg, out *Out) {
	p := &ch.publish
	if p.leg == g && p.state == pubPass { // the rest of the message has nowhere to go
		if p.copied {
			ch.ledger.forget(&ch.ledger.books[g.book], ch.ledger.books[g.book].sent)
		}
		if ch.ledger != nil {
			ch.ledger.whole(g.book)
		}
		p.leg, p.state, p.copied = nil, pubDrop, false
	}
	ch.removeLeg(g.link)
	if ch.ledger != nil && g.book < len(ch.ledger.books) {
		ch.ledger.abandon(g.book, ch.ledger.books[g.book].sent)
		c.retry(ch, out)
		c.tell(ch, out)
	}
	c.goOn(ch, out)
}

// removeLeg forgets a leg.
func (ch *channel) removeLeg(l *link) {
	g := ch.more[l.index]
	g.closed = true
	if g.suspect {
		l.suspects--
	}
	ch.more[l.index] = nil
	ch.lastSnap = nil // and the way by it
}

// closeLegs closes the legs on publish links.
func (c *Conn) closeLegs(ch *channel, out *Out) {
	for _, g := range ch.more {
		if g == nil {
			continue
		}
		l := g.link
		ch.removeLeg(l)
		if ch.publish.leg == g && ch.publish.state == pubPass {
			c.breakLink(l, out)
			continue
		}
		if l.closing == nil {
			l.closing = map[uint16]bool{}
		}
		l.closing[ch.number] = true
		to := out.to(l)
		to.ownedOr(frame.AppendChannelClose(to.room(512)[:0], ch.number, &frame.ChannelError{Code: frame.ReplySuccess, Text: "Goodbye"}))
	}
}

// suspects takes the time since the broker of a leg has settled anything, and gives up
// what is outstanding there when that is too long. Its answer to prove shows that it
// works again, like any confirm.
func (c *Conn) suspects(ch *channel, g *leg, before time.Time, out *Out) {
	if ch.ledger == nil || g.book >= len(ch.ledger.books) || ch.state != chOpen && !ch.waitsToClose() {
		return
	}
	stands := g.link.blocked || g.link.stuck
	if ch.ledger.rests(g.book, before, c.now, stands) >= c.cfg.StallTimeout && !g.suspect && c.cfg.StallTimeout > 0 {
		g.suspect = true
		g.link.suspects++
		ch.lastSnap = nil
		ch.ledger.abandon(g.book, ch.ledger.books[g.book].sent)
	}
	if c.cfg.ConfirmTimeout > 0 {
		ch.ledger.late(g.book, c.now, c.cfg.ConfirmTimeout)
	}
	if g.suspect && !g.proof && !(ch.publish.leg == g && ch.publish.state == pubPass) {
		c.ask(ch, g, out)
	}
}

// moves says that a leg's broker has shown that it works.
func (c *Conn) moves(ch *channel, g *leg, out *Out) {
	if !g.suspect {
		return
	}
	g.suspect = false
	g.link.suspects--
	ch.lastSnap = nil
	c.unpark(ch, out)
}
