package intercept

import (
	"encoding/binary"
	"fmt"
	"slices"

	"amqproxy/frame"
	"amqproxy/shard"
)

// publish is the message that a client is sending on a channel.
type publish struct {
	state   pubState
	content content
	method  frame.Frame // of a message for a stream, held until its header is here
	table   *shard.Table
	keyHash uint64
	leg     *leg  // that it goes by
	kept    again // what is taken in
	copied  bool  // what has been sent of it is kept, see retry.go
	toQueue bool  // published to the default exchange with the stream's name as key
}

type pubState uint8

const (
	pubNone   pubState = iota
	pubPass            // frames go through as they come
	pubStream          // the method is held; the header picks the shard
	pubKeep            // it is taken in, see park.go
	pubDrop            // its leg is lost: the rest of it goes nowhere
)

// basicPublish begins a message. The method of one for a stream is held until
// its header is here too: a refusal must not leave half a message at the broker.
func (c *Conn) basicPublish(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	exchange, key := a.ShortStr(), a.ShortStr()
	a.Octet()
	table, verdict := c.target(ch, exchange, key)
	switch {
	case verdict == shard.Absent && len(exchange) > 0 && a.OK():
		// To let it through would be to lose it, if the exchange has just come.
		c.publishAbsent(ch, f, string(exchange), out)
		return
	case !a.OK() || verdict.Passes():
		c.tally.all.published++
		ch.publish.state, ch.publish.leg = pubPass, &ch.leg
		ch.publish.content.begin()
		ch.sent()
		out.Home.view(f)
		return
	case verdict == shard.Unknown:
		name := exchange
		if len(name) == 0 {
			name = key
		}
		c.learn(ch, f, string(name), out)
		return
	case len(table.Shards) == 0 && c.learned != table.Stream:
		c.learn(ch, f, table.Stream, out) // they may be on their way
		return
	case len(table.Shards) == 0:
		c.fail(ch, &frame.ChannelError{Code: frame.NotFound, Method: frame.BasicPublish, Text: fmt.Sprintf(
			"stream '%s' in vhost '%s' has no shard that is ready", table.Stream, c.cfg.VHost)}, out)
		return
	}
	if c.held != nil && c.held != ch {
		c.held.publish.method = append(frame.Frame(nil), c.held.publish.method...)
	}
	c.held = ch
	p := &ch.publish
	p.state, p.method, p.table, p.toQueue = pubStream, f, table, len(exchange) == 0
	p.content.begin()
	switch {
	case table.Random() || p.toQueue:
		p.keyHash = c.random()
	case table.ByRoutingKey():
		p.keyHash = shard.KeyHash(key)
	}
}

// publishAbsent asks anew for an exchange that was not there, and refuses the
// message as the broker would if it still is not.
func (c *Conn) publishAbsent(ch *channel, f frame.Frame, exchange string, out *Out) {
	if c.learned != exchange {
		c.learn(ch, f, exchange, out)
		return
	}
	c.fail(ch, &frame.ChannelError{Code: frame.NotFound, Method: frame.BasicPublish,
		Text: fmt.Sprintf("no exchange '%s' in vhost '%s'", exchange, c.cfg.VHost)}, out)
}

// target tells whether a message is for a stream: by its exchange, or by its key
// when it goes to the default exchange, which would take it to the queue V.
func (c *Conn) target(ch *channel, exchange, key []byte) (*shard.Table, shard.Verdict) {
	if len(exchange) == 0 {
		return c.exchange(key)
	}
	if ch.lastSnap == c.snap && string(exchange) == ch.lastExchange {
		if ch.lastTable != nil {
			return ch.lastTable, shard.IsStream
		}
		return nil, shard.Ordinary
	}
	t, v := c.exchange(exchange)
	if v == shard.IsStream || v == shard.Ordinary {
		if ch.lastExchange != string(exchange) {
			ch.lastExchange = string(exchange)
		}
		ch.lastTable, ch.lastSnap = t, c.snap
		if t != nil {
			n := len(t.Nodes())
			ch.route = slices.Grow(ch.route[:0], n)[:n]
			clear(ch.route)
		}
	}
	return t, v
}

// contentFromClient takes the frames of a message behind its method.
func (c *Conn) contentFromClient(ch *channel, f frame.Frame, out *Out) {
	p := &ch.publish
	if p.state == pubStream {
		c.streamHeader(ch, f, out)
		return
	}
	if f.Type() != frame.TypeBody && p.leg != &ch.leg { // its broker would say so, but on the wrong connection
		c.Fault(&frame.ConnError{Code: frame.UnexpectedFrame, Text: "expected content body, got non content body frame instead"}, out)
		return
	}
	if f.Type() == frame.TypeMethod { // a fault that the broker is to see
		*p = publish{}
		c.clientMethod(ch, f, out)
		return
	}
	if n := uint64(len(f.Payload())); f.Type() == frame.TypeBody && !p.content.header && n > p.content.body {
		// RabbitMQ lets it pass, and with it more than any limit on messages allows.
		c.Fault(&frame.ConnError{Code: frame.FrameError, Text: fmt.Sprintf(
			"body frame of %d bytes where the header leaves %d", n, p.content.body)}, out)
		return
	}
	switch p.state {
	case pubKeep:
		c.keptBody(ch, f, out)
		return
	case pubPass:
		out.to(p.leg.link).view(f)
	}
	if p.copied {
		c.copyBody(ch, f)
	}
	if p.content.next(f); !p.content.busy() {
		if ch.ledger != nil && p.state == pubPass && p.leg.book < len(ch.ledger.books) {
			ch.ledger.whole(p.leg.book)
		}
		p.state, p.copied = pubNone, false
		c.sendAgain(ch, out)
	}
}

// streamHeader takes the frame behind the method of a message for a stream,
// picks the shard, and lets both go on with the shard's key in the BCC header.
func (c *Conn) streamHeader(ch *channel, f frame.Frame, out *Out) {
	p := &ch.publish
	if c.held == ch {
		c.held = nil
	}
	h, ok := frame.ParseHeader(f)
	if f.Type() != frame.TypeHeader || !ok {
		// Not what the protocol wants here: the broker says what it says.
		out.Home.view(p.method)
		out.Home.view(f)
		*p = publish{}
		return
	}
	if p.toQueue && hasCopies(h) {
		c.fail(ch, &frame.ChannelError{Code: frame.PreconditionFailed, Method: frame.BasicPublish,
			Text: "a message for stream '" + p.table.Stream + "' by the default exchange can't have CC or BCC: publish it to the stream's exchange"}, out)
		return
	}
	hash := p.keyHash
	if !p.table.Random() {
		hash = hashOf(p.table, p.keyHash, f, h)
	}
	i, g, w, why := c.choose(ch, p.table, hash, out)
	switch {
	case w == wayWait:
		c.waitForLink(ch, f)
		return
	case w == wayRefused:
		c.fail(ch, &frame.ChannelError{Code: frame.AccessRefused, Method: frame.BasicPublish,
			Text: fmt.Sprintf("stream '%s': %s", p.table.Stream, why)}, out)
		return
	case g == nil:
		c.keepPublish(ch, p.table.ID(i), f, out)
		if !p.content.busy() {
			c.keptWhole(ch, out)
		}
		return
	}
	item := p.table.BCC(i)
	seam, spliced := findSeam(f, h, p.table.Settings.Persist)
	size := len(f)
	if spliced {
		size += seam.growth(item)
	}
	if size > c.cfg.FrameMax {
		c.fail(ch, &frame.ChannelError{Code: frame.PreconditionFailed, Method: frame.BasicPublish,
			Text: "the message's properties leave no room in a frame for the shard of stream '" + p.table.Stream + "'"}, out)
		return
	}
	a := p.method.Args()
	a.Short()
	a.ShortStr()
	key := shard.KeyHash(a.ShortStr())
	c.sentToStream(ch, g, p.table.ID(i), key, a.Bit())
	ch.keepBCC(seam, h, key)
	c.tally.stream(p.table.Counters).published++
	c.tally.all.published++
	ch.knowsWay(p.table, i, g)
	to := out.to(g.link)
	if p.toQueue {
		to.built(toExchange(to.build(ch.number, frame.BasicPublish), p.method))
	} else {
		setMandatory(p.method)
		to.view(p.method)
	}
	if p.table.Settings.RetryNacked {
		c.copyBegun(ch, g, f)
	}
	if spliced {
		to.ownedOr(seam.splice(to.room(min(size, chunkSize))[:0], f, item))
	} else {
		to.view(f)
	}
	p.content.next(f)
	p.method, p.table, p.state, p.leg = nil, nil, pubPass, g
	if p.content.busy() && ch.ledger != nil {
		ch.ledger.begun(g.book)
	}
	if !p.content.busy() {
		p.state, p.copied = pubNone, false
		c.sendAgain(ch, out)
	}
}

// waitForLink holds a message, whose header this is, until a link is opened.
func (c *Conn) waitForLink(ch *channel, header frame.Frame) {
	ch.publish.method = append(frame.Frame(nil), ch.publish.method...)
	ch.wait = wait{what: waitLink, frame: append(frame.Frame(nil), header...)}
}

// knowsWay remembers the way to a shard's broker for the messages that follow.
func (ch *channel) knowsWay(t *shard.Table, i int, g *leg) {
	if ch.lastTable == t && ch.lastSnap != nil {
		ch.route[t.NodeOf(i)] = g
	}
}

// mandatory is the bit of basic.publish that has the broker send back what no queue
// takes, in the last octet of the method.
const mandatory = 1 << 0

// setMandatory sets it where it lies.
func setMandatory(publish frame.Frame) { publish[len(publish)-2] |= mandatory }

// hasCopies tells whether a message names further queues: on the stream's exchange
// their names mean nothing.
func hasCopies(h frame.Header) bool {
	_, cc, _ := h.Table.Find("CC")
	_, bcc, _ := h.Table.Find("BCC")
	return cc || bcc
}

// toExchange turns a publish to the default exchange with key V into one to exchange V,
// with the client's flags.
func toExchange(b frame.Builder, publish frame.Frame) frame.Builder {
	a := publish.Args()
	a.Short()
	a.ShortStr()
	key := a.ShortStr()
	flags := a.Octet() | mandatory
	return b.Short(0).ShortStr(string(key)).ShortStr(string(key)).Octet(flags)
}

// hashOf is the hash of what a stream hashes on, of a message with this routing key's
// hash and this header. A message that lacks it is hashed like one that has it empty,
// so all of these share a shard.
func hashOf(t *shard.Table, keyHash uint64, f frame.Frame, h frame.Header) uint64 {
	on := t.HashOn()
	switch on.Source {
	case shard.HashHeader:
		field, _, _ := h.Table.Find(on.Header)
		if n, isInt := field.Int(); isInt {
			return shard.KeyHash(binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(n)))
		}
		return shard.KeyHash(field.Value)
	case shard.HashMessageID:
		return propertyHash(f, h, frame.FlagMessageID)
	case shard.HashCorrelationID:
		return propertyHash(f, h, frame.FlagCorrelationID)
	case shard.HashTimestamp:
		return propertyHash(f, h, frame.FlagTimestamp)
	}
	return keyHash
}

func propertyHash(f frame.Frame, h frame.Header, flag uint16) uint64 {
	v, _, _ := h.Property(f, flag)
	return shard.KeyHash(v)
}

// delivered counts a delivery and a get-ok from a stream.
func (c *Conn) delivered(ch *channel, f frame.Frame) {
	a := f.Args()
	if f.Method() == frame.BasicDeliver {
		a.ShortStr()
	}
	a.LongLong()
	a.Octet()
	c.tally.all.delivered++
	if counters := c.countersOf(ch, a.ShortStr()); counters != nil {
		c.tally.stream(counters).delivered++
	}
}

// returned counts a message that no shard took.
func (c *Conn) returned(ch *channel, f frame.Frame) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	c.tally.all.returned++
	if counters := c.countersOf(ch, a.ShortStr()); counters != nil {
		c.tally.stream(counters).returned++
	}
}

func (c *Conn) countersOf(ch *channel, exchange []byte) *shard.Counters {
	if ch.deliverSnap == c.snap && string(exchange) == ch.lastDeliver {
		return ch.lastCounters
	}
	t, _ := c.find(exchange)
	ch.lastDeliver, ch.lastCounters, ch.deliverSnap = string(exchange), nil, c.snap
	if t != nil {
		ch.lastCounters = t.Counters
	}
	return ch.lastCounters
}
