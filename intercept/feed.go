package intercept

import (
	"encoding/binary"
	"fmt"

	"amqproxy/frame"
)

// feed is what a client channel has that more than its home leg brings messages to: its
// consumers of groups, and what it has got of their streams.
type feed struct {
	deliveries
	members []*member
	turn    int
	getters []*reader // one for each link that it has got something by
	get     farGet
	voids   int // recover-oks that the client waits for: what comes before them it takes for void
}

// feeds begins the feed of a channel.
func (ch *channel) feeds() *feed {
	if ch.feed == nil {
		ch.feed = &feed{deliveries: deliveries{sources: []*reader{nil}, base: ch.homeTag, last: ch.homeTag}}
	}
	return ch.feed
}

// unwritten is a message for a no-ack consumer that may not be written to the client yet.
type unwritten struct {
	from *reader
	up   uint64
}

// arrived takes a whole message from a reader, whose delivery tag is at tagAt in it. True: it
// was changed where it lies, and is for the client now.
func (c *Conn) arrived(r *reader, b []byte, tagAt int, out *Out) (passes bool) {
	switch {
	case r.recovers > 0 || c.phase == parted || r.leaving || r.stage >= readerClosing || r.ch.state != chOpen || !r.expects(b, tagAt):
		// It goes back to the broker when the channel closes.
	case r.m == nil:
		c.farGetOk(r, b, tagAt, out)
	case len(r.waiting) > 0 || !c.mayHave(r.m):
		if len(r.waiting) == 0 {
			r.m.ready = append(r.m.ready, r)
		}
		r.waiting = append(r.waiting, append([]byte(nil), b...))
		c.hoard += len(b)
	default:
		c.address(r, b, tagAt)
		return true
	}
	return false
}

// expects tells whether a message is what a reader has asked for: a delivery with a consumer tag
// as long as its own, or what it got.
func (r *reader) expects(b []byte, tagAt int) bool {
	delivery := frame.First(b).Method() == frame.BasicDeliver
	if r.m == nil {
		return !delivery
	}
	return delivery && tagAt == frame.DeliverTag+len(r.m.tag)
}

// mayHave tells whether the client may have one more message for a consumer.
func (c *Conn) mayHave(m *member) bool {
	ch := m.ch
	if ch.down.busy() || len(ch.deferred) > 0 || ch.feed.voids > 0 { // between the frames of another message, for example
		return false
	}
	return m.flags&consumeNoAck != 0 ||
		(m.limit == 0 || m.unacked < m.limit) && (ch.qosAll == 0 || ch.feed.count() < ch.qosAll)
}

// address makes a message of a consumer's the client's: it changes its channel and its
// delivery tag where they lie.
func (c *Conn) address(r *reader, b []byte, tagAt int) {
	m, ch := r.m, r.ch
	up := binary.BigEndian.Uint64(b[tagAt:])
	var tag uint64
	if m.flags&consumeNoAck != 0 {
		tag = ch.feed.next()
		c.unwritten = append(c.unwritten, unwritten{r, up})
	} else {
		tag = ch.feed.add(up, r.source)
		m.unacked++
	}
	r.unacked++
	binary.BigEndian.PutUint64(b[tagAt:], tag)
	copy(b[tagAt-len(m.tag):], m.tag) // see upTag
	frame.Readdress(b, ch.number)
	c.tally.stream(m.counters).delivered++
	c.tally.all.delivered++
}

// feedOn gives the client what it may have now, of each shard in turn.
func (c *Conn) feedOn(ch *channel, out *Out) {
	if ch.feed == nil || ch.state != chOpen {
		return
	}
	members := ch.feed.members
	for i := range members {
		m := members[(i+ch.feed.turn)%len(members)]
		for len(m.ready) > 0 && c.mayHave(m) {
			r := m.ready[0]
			m.ready = append(m.ready[:0], m.ready[1:]...)
			b := r.waiting[0]
			r.waiting[0] = nil
			c.hoard -= len(b)
			if r.waiting = r.waiting[1:]; len(r.waiting) > 0 {
				m.ready = append(m.ready, r)
			}
			c.address(r, b, frame.TagAt(frame.First(b)))
			out.Client.own(b)
		}
	}
	ch.feed.turn++ // for those that share what the channel may have
}

// settle takes an ack, nack or reject of the client's on a channel that has a feed, and
// passes it on to those who brought the messages.
func (c *Conn) settle(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	tag, bits := a.LongLong(), a.Octet()
	d := &ch.feed.deliveries
	multiple := f.Method() != frame.BasicReject && bits&1 != 0
	at, ok := d.find(tag)
	switch {
	case !a.OK():
		out.Home.view(f)
		return
	case multiple && tag == 0:
		if ch.homeTag > 0 {
			c.settleHome(ch, f.Method(), 0, bits, out)
		}
		at = len(d.open) - 1
	case !ok && tag <= d.base && tag > 0:
		c.acknowledged(ch, f, out)
		out.Home.view(f)
		return
	case !ok:
		c.fail(ch, &frame.ChannelError{Code: frame.PreconditionFailed, Method: f.Method(), Text: fmt.Sprintf("unknown delivery tag %d", tag)}, out)
		return
	case !multiple:
		c.settleOne(ch, at, f.Method(), bits, out)
		c.feedOn(ch, out)
		return
	}
	c.settleTo(ch, at, f.Method(), bits, tag == 0, out)
	c.feedOn(ch, out)
}

func (c *Conn) settleOne(ch *channel, at int, m frame.Method, bits byte, out *Out) {
	e := ch.feed.open[at]
	ch.feed.settle(at)
	if e.from == 0 {
		c.settleHome(ch, m, e.up, bits, out)
		return
	}
	c.settleUp(ch.feed.sources[e.from], m, e.up, bits, 1, out)
}

// settleTo settles all up to one: with each reader what of these it has brought, and with the
// home leg unless that is told already. What that brought before there was a feed is settled
// along with what it has brought since: by itself it can't be named, for nobody has kept which
// of it is settled.
func (c *Conn) settleTo(ch *channel, to int, m frame.Method, bits byte, homeTold bool, out *Out) {
	d := &ch.feed.deliveries
	home := uint64(0)
	for i := d.head; i <= to; i++ {
		switch e := &d.open[i]; {
		case e.done:
		case e.from == 0:
			home = e.up
		default:
			r := d.sources[e.from]
			if r.marked == 0 {
				c.marked = append(c.marked, r)
			}
			r.mark = e.up
			r.marked++
		}
	}
	d.settleTo(to)
	if home > 0 && !homeTold {
		c.settleHome(ch, m, home, bits, out)
	}
	marked := c.marked
	for i, r := range marked {
		n := r.marked
		r.marked, marked[i] = 0, nil
		c.settleUp(r, m, r.mark, bits, n, out)
	}
	c.marked = marked[:0]
}

// settleUp settles n messages with a reader. Those of one that is gone are the broker's
// again: nothing that says something of them may reach who has them now.
func (c *Conn) settleUp(r *reader, m frame.Method, up uint64, bits byte, n int, out *Out) {
	if r.m != nil {
		r.m.unacked -= n
	}
	r.unacked -= n
	c.freeGot(r, up, n > 1, out)
	if r.stage >= readerClosing {
		return
	}
	to := out.to(r.link)
	to.built(to.build(r.number, m).LongLong(up).Octet(bits))
	if r.m != nil {
		c.goOnReading(r, out)
	}
}

func (c *Conn) settleHome(ch *channel, m frame.Method, up uint64, bits byte, out *Out) {
	f := frame.Frame(frame.Build(nil, ch.number, m).LongLong(up).Octet(bits).End())
	c.acknowledged(ch, f, out)
	out.Home.own(f)
}

// homeTagged gives a delivery of the home leg the client's tag; noAck if it is not to be
// settled. The frame is changed where it lies.
func (ch *channel) homeTagged(f frame.Frame, noAck bool) {
	at := frame.TagAt(f)
	if at == 0 {
		return
	}
	up := binary.BigEndian.Uint64(f[at:])
	ch.homeTag = up
	switch {
	case ch.feed == nil:
	case noAck:
		binary.BigEndian.PutUint64(f[at:], ch.feed.next())
	default:
		binary.BigEndian.PutUint64(f[at:], ch.feed.add(up, 0))
	}
}

// recover has the brokers deliver again what is not settled: the client knows these tags no
// more.
func (c *Conn) recover(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	if requeue := a.Bit(); !requeue || !a.OK() {
		return // the home broker says what it thinks of it
	}
	c.recoverFrom(ch.feed.getters, out)
	for _, m := range c.groupMembers() { // also those that are cancelled and give back
		if m.ch == ch && m.flags&consumeNoAck == 0 {
			m.ready, m.unacked = m.ready[:0], 0
			c.recoverFrom(m.readers, out)
		}
	}
	for _, r := range ch.feed.sources { // the places of those that are gone become free
		if r != nil && (r.m == nil || r.m.flags&consumeNoAck == 0) {
			r.unacked = 0
		}
	}
	ch.feed.open, ch.feed.head, ch.feed.settled = nil, 0, 0
	if f.Method() == frame.BasicRecover {
		ch.feed.voids++
	}
}

func (c *Conn) recoverFrom(readers []*reader, out *Out) {
	for _, r := range readers {
		c.drop(r)
		c.freeGot(r, 0, true, out)
		r.unacked = 0
		if r.link == nil || r.stage >= readerClosing {
			continue
		}
		r.recovers++
		to := out.to(r.link)
		to.built(to.build(r.number, frame.BasicRecover).Bit(true))
		if r.m != nil {
			c.goOnReading(r, out)
		}
	}
}

// homeRecovered goes on when the client has its recover-ok: what the home leg has brought before
// it is void, that which was on its way too. An ack of later messages that named it would close
// the channel.
func (c *Conn) homeRecovered(ch *channel, out *Out) {
	if ch.feed != nil {
		ch.feed.forget(0)
		ch.feed.voids = max(ch.feed.voids-1, 0)
		c.feedOn(ch, out)
	}
}

// basicQos notes what a client may have unsettled.
func (c *Conn) basicQos(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Long()
	n := int(a.Short())
	switch all := a.Bit(); {
	case !a.OK():
	case all:
		ch.qosAll = n
		c.prefetchAll(ch, out)
		c.feedOn(ch, out)
	default:
		ch.qos = n
	}
	c.forward(ch, f, out)
}

// Hoard is how many octets of messages wait for their turn at the client: over a limit of its
// own the shell stops reading consume links.
func (c *Conn) Hoard() int { return c.hoard }

// Unwritten is how many messages may not be written to the client yet, and count when they are.
func (c *Conn) Unwritten() int { return len(c.unwritten) }

// Written says that the first n of these are written: what the client does not acknowledge
// itself is settled by that.
func (c *Conn) Written(n int, out *Out) {
	written := c.unwritten[:n]
	for _, u := range written {
		u.from.mark = max(u.from.mark, u.up)
	}
	for _, u := range written {
		r := u.from
		r.unacked--
		if r.mark == u.up && r.stage < readerClosing {
			to := out.to(r.link)
			to.built(to.build(r.number, frame.BasicAck).LongLong(u.up).Octet(1))
			c.goOnReading(r, out)
		}
	}
	rest := copy(c.unwritten, c.unwritten[n:])
	clear(c.unwritten[rest:])
	c.unwritten = c.unwritten[:rest]
}
