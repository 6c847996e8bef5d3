package intercept

import (
	"slices"
	"strconv"
	"time"

	"amqproxy/frame"
)

// simBroker is RabbitMQ as far as consume links and home links without publishes see it.
type simBroker struct {
	s      *sim
	name   string // of its node
	up     bool
	queues map[string]*simQueue // that live here
	conns  []*simConn
}

// simConn is a connection as its broker sees it.
type simConn struct {
	b        *simBroker
	se       *simSession
	link     int   // -1: the home link
	up, down *pipe // to the broker, and from it
	channels map[uint16]*simChannel
	open     bool
}

type simChannel struct {
	k         *simConn
	n         uint16
	closing   bool // close-ok is due
	each      int
	tags      uint64
	consumers []*simConsumer
	unacked   []*simDelivery
	counted   time.Duration // when it was told last that a shard has no consumer; -1 if since then it consumed
}

type simConsumer struct {
	ch        *simChannel
	q         *simQueue
	tag       string
	member    uint64 // of its node's; 0 if it is on a queue that is no shard
	exclusive bool
	noAck     bool
	cancelled bool // by the broker
	prefetch  int
	unacked   int
	since     time.Duration
}

func (b *simBroker) connect(se *simSession, link int) *simConn {
	k := &simConn{b: b, se: se, link: link, channels: map[uint16]*simChannel{}, open: true}
	k.up = &pipe{s: b.s, take: k.take}
	k.down = &pipe{s: b.s, node: se.node}
	b.conns = append(b.conns, k)
	return k
}

func (k *simConn) take(packets []packet) {
	for _, p := range packets {
		switch {
		case !k.open:
			return
		case p.frame == nil:
			k.end(p)
		case p.frame.Channel() == 0:
			if p.frame.Type() == frame.TypeMethod && p.frame.Method() == frame.ConnectionClose {
				k.answer(frame.Build(nil, 0, frame.ConnectionCloseOk))
				k.end(p)
			}
		default:
			k.b.s.trace("%s to %s: %v", k.se, k.b.name, p.frame)
			k.method(p)
		}
	}
}

// end ends a connection, whoever wanted it.
func (k *simConn) end(p packet) {
	if !k.open {
		return
	}
	k.b.s.trace("%s: its connection to %s ends", k.se, k.b.name)
	k.open = false
	k.b.conns = slices.DeleteFunc(k.b.conns, func(o *simConn) bool { return o == k })
	for _, n := range sortedKeys(k.channels) {
		k.channels[n].end(p, nil)
	}
	k.down.end()
}

func (k *simConn) answer(b frame.Builder) { k.down.write(b.End()) }

func (k *simConn) method(p packet) {
	f, s := p.frame, k.b.s
	n, m := f.Channel(), f.Method()
	ch := k.channels[n]
	switch {
	case ch == nil && m == frame.ChannelOpen:
		k.channels[n] = &simChannel{k: k, n: n, counted: -1}
		k.answer(frame.Build(nil, n, frame.ChannelOpenOk).LongStr(""))
		return
	case ch == nil || m == frame.ChannelOpen:
		s.fail("%s sends %v to %s, where the channel is open: %v", k.se, f, k.b.name, ch != nil)
	case m == frame.ChannelClose:
		if !ch.closing { // else the two crossed, and close-ok is still to come
			ch.end(p, s.explained)
			delete(k.channels, n)
		}
		k.answer(frame.Build(nil, n, frame.ChannelCloseOk))
	case m == frame.ChannelCloseOk && ch.closing:
		delete(k.channels, n)
	case !ch.closing:
		ch.method(p)
	}
}

func (ch *simChannel) method(p packet) {
	a := p.frame.Args()
	switch p.frame.Method() {
	case frame.BasicQos:
		a.Long()
		if n := int(a.Short()); !a.Bit() {
			ch.each = n
		}
		ch.answer(frame.BasicQosOk)
	case frame.QueueDeclare:
		a.Short()
		ch.count(string(a.ShortStr()))
	case frame.BasicConsume:
		ch.consume(&a)
	case frame.BasicCancel:
		tag := string(a.ShortStr())
		if q := ch.remove(tag); q != nil {
			q.pump()
		}
		ch.k.answer(frame.Build(nil, ch.n, frame.BasicCancelOk).ShortStr(tag))
	case frame.BasicGet:
		ch.get(&a)
	case frame.BasicAck, frame.BasicNack, frame.BasicReject:
		ch.settle(p)
	case frame.BasicRecover:
		ch.recover(p)
	default:
		ch.k.b.s.fail("%s sends %v to %s, which the model does not know", ch.k.se, p.frame, ch.k.b.name)
	}
}

func (ch *simChannel) answer(m frame.Method) { ch.k.answer(frame.Build(nil, ch.n, m)) }

// refuse closes the channel.
func (ch *simChannel) refuse(code uint16, text string, m frame.Method) {
	ch.end(packet{turn: -1}, nil)
	ch.closing = true
	ch.k.down.write(frame.AppendChannelClose(nil, ch.n, &frame.ChannelError{Code: code, Text: text, Method: m}))
}

// find is a queue that this broker serves.
func (ch *simChannel) find(name string, m frame.Method) *simQueue {
	q := ch.k.b.find(name)
	if q == nil {
		ch.refuse(frame.NotFound, "no queue '"+name+"', or its node is down", m)
	}
	return q
}

func (ch *simChannel) count(name string) {
	q := ch.find(name, frame.QueueDeclare)
	if q == nil {
		return
	}
	if len(q.consumers) == 0 {
		ch.counted = ch.k.b.s.now
	}
	ch.k.answer(frame.Build(nil, ch.n, frame.QueueDeclareOk).ShortStr(name).Long(uint32(len(q.ready))).Long(uint32(len(q.consumers))))
}

func (ch *simChannel) consume(a *frame.Args) {
	s := ch.k.b.s
	a.Short()
	q := ch.find(string(a.ShortStr()), frame.BasicConsume)
	if q == nil {
		return
	}
	c := &simConsumer{ch: ch, q: q, tag: string(a.ShortStr()), prefetch: ch.each, since: s.now}
	flags := a.Octet()
	c.exclusive, c.noAck = flags&consumeExclusive != 0, flags&consumeNoAck != 0
	switch {
	case c.noAck && q.shard:
		s.fail("%s would lose what its client does not get: it consumes %s without acks", ch.k.se, q.name)
	case slices.ContainsFunc(ch.consumers, func(o *simConsumer) bool { return o.tag == c.tag }):
		s.fail("%s uses the consumer tag %q twice on one channel", ch.k.se, c.tag)
	case len(q.consumers) > 0 && (c.exclusive || q.consumers[0].exclusive):
		ch.refuse(frame.AccessRefused, "queue '"+q.name+"' in exclusive use", frame.BasicConsume)
		return
	}
	if q.shard {
		c.member = ch.k.se.memberAt(ch.k.link, ch.n)
	}
	s.subscribes(c)
	ch.counted = -1
	ch.consumers = append(ch.consumers, c)
	q.consumers = append(q.consumers, c)
	ch.k.answer(frame.Build(nil, ch.n, frame.BasicConsumeOk).ShortStr(c.tag))
	q.pump()
}

// remove ends a consumer, and gives its queue; nil if there is none.
func (ch *simChannel) remove(tag string) *simQueue {
	for _, c := range ch.consumers {
		if c.tag == tag {
			ch.consumers = slices.DeleteFunc(ch.consumers, func(o *simConsumer) bool { return o == c })
			c.q.remove(c)
			return c.q
		}
	}
	return nil
}

func (ch *simChannel) get(a *frame.Args) {
	a.Short()
	q := ch.find(string(a.ShortStr()), frame.BasicGet)
	if q == nil {
		return
	}
	if len(q.ready) == 0 {
		ch.k.answer(frame.Build(nil, ch.n, frame.BasicGetEmpty).ShortStr(""))
		return
	}
	d := ch.deliver(q.pop(), q, nil)
	noAck := a.Octet()&getNoAck != 0
	ch.send(frame.Build(nil, ch.n, frame.BasicGetOk).LongLong(d.tag).Bit(d.again).ShortStr("v").ShortStr("k").Long(uint32(len(q.ready))), d)
	if noAck {
		ch.acked(d)
	}
}

// acked: the delivery just made needs no ack.
func (ch *simChannel) acked(d *simDelivery) {
	ch.unacked = ch.unacked[:len(ch.unacked)-1]
	d.noAck, d.over, d.m.done = true, true, true
}

// deliver makes a delivery of a message.
func (ch *simChannel) deliver(m *simMessage, q *simQueue, c *simConsumer) *simDelivery {
	s := ch.k.b.s
	ch.tags++
	d := &simDelivery{serial: len(s.deliveries), tag: ch.tags, m: m, q: q, c: c, ch: ch, again: m.last != nil, given: never, settled: never}
	m.last = d
	s.deliveries = append(s.deliveries, d)
	ch.unacked = append(ch.unacked, d)
	return d
}

// send sends a method with the message: all that its body says is which delivery it is.
func (ch *simChannel) send(b frame.Builder, d *simDelivery) {
	most := frame.Overhead + 100
	if s := ch.k.b.s; s.chance(.2) {
		most = frame.Overhead + 1 + s.rnd.IntN(3)
	}
	ch.k.down.write(frame.AppendContent(b.End(), ch.n, []byte{0, 0}, strconv.AppendInt(nil, int64(d.serial), 10), most))
}

// settle takes an ack, nack or reject. Nothing may come that the client has not said.
func (ch *simChannel) settle(p packet) {
	a, m, s := p.frame.Args(), p.frame.Method(), ch.k.b.s
	tag, bits := a.LongLong(), a.Octet()
	fate := fateOf(m, bits)
	multiple := m != frame.BasicReject && bits&1 != 0
	var settled []*simDelivery
	ch.unacked = slices.DeleteFunc(ch.unacked, func(d *simDelivery) bool {
		is := d.tag == tag || multiple && (d.tag < tag || tag == 0)
		if is {
			settled = append(settled, d)
		}
		return is
	})
	if len(settled) == 0 && !(multiple && tag == 0) {
		s.fail("%s sends %v to %s, which has no such delivery", ch.k.se, p.frame, ch.k.b.name)
	}
	for _, d := range settled {
		s.checkSettled(d, fate, p)
		d.free()
	}
	back := slices.DeleteFunc(settled, func(d *simDelivery) bool {
		if d.over { // with its broker: the message is another's by now
			return true
		}
		d.over = true
		d.m.done = fate != fateRequeued
		return d.m.done
	})
	requeue(back)
	ch.pump()
}

func (ch *simChannel) recover(p packet) {
	ch.answer(frame.BasicRecoverOk)
	back := ch.unacked
	ch.unacked = nil
	for _, d := range back {
		d.free()
	}
	ch.giveBack(back, p, func(d *simDelivery, p packet) string {
		if ch.k.link < 0 { // void with the recover-ok that is on its way
			return ""
		}
		return "the client has not recovered"
	})
	ch.pump()
}

// end ends all that the channel does. Who is next gets what comes back first.
func (ch *simChannel) end(p packet, explained func(*simDelivery, packet) string) {
	var queues []*simQueue
	for len(ch.consumers) > 0 {
		queues = append(queues, ch.remove(ch.consumers[0].tag))
	}
	back := ch.unacked
	ch.unacked = nil
	ch.giveBack(back, p, explained)
	for _, q := range queues {
		q.pump()
	}
}

// giveBack gives deliveries back to their queues. What the client has of them has to be
// explained.
func (ch *simChannel) giveBack(back []*simDelivery, p packet, explained func(*simDelivery, packet) string) {
	s := ch.k.b.s
	for _, d := range back {
		if d.over {
			continue
		}
		s.trace("%v goes back to %s", d, d.q.name)
		if d.settled <= p.turn && !d.held {
			s.fail("the client of %s has settled %v, and it goes back to %s", ch.k.se, d, d.q.name)
		}
		if explained != nil && d.given <= p.turn && !d.void {
			if why := explained(d, p); why != "" {
				s.fail("%v goes back to %s while the client of %s has it: %s", d, d.q.name, ch.k.se, why)
			}
		}
	}
	back = slices.DeleteFunc(back, func(d *simDelivery) bool { return d.over })
	for _, d := range back {
		d.over = true
	}
	requeue(back)
}

// pump goes on with deliveries to all consumers of the channel.
func (ch *simChannel) pump() {
	for _, c := range ch.consumers {
		c.q.pump()
	}
}
