package intercept

import (
	"fmt"
	"slices"

	"amqproxy/frame"
)

// act has a client do something at random.
func (c *simClient) act() {
	s := c.se.s
	n := uint16(1 + s.rnd.IntN(len(c.channels)-1))
	ch := c.channels[n]
	if ch != nil && !ch.closed && !ch.recovers && !ch.blind && len(ch.unsettled) > 0 && (s.resting || s.chance(c.diligent)) {
		ch.settle()
		return
	}
	switch {
	case ch == nil && (!s.resting || c.keen):
		ch = &simClientChannel{c: c, n: n, consumers: map[string]*simClientConsumer{}}
		c.channels[n] = ch
		ch.ask(frame.ChannelOpenOk, frame.Build(nil, n, frame.ChannelOpen).ShortStr(""), nil)
	case ch == nil || ch.answer != 0 || ch.blind:
	case c.keen:
		c.keen = false
		ch.consume(false)
	case s.resting:
	case len(ch.live()) == 0 || s.chance(.02):
		ch.consume(s.chance(s.plain))
	case s.chance(.1):
		ch.actSeldom()
	}
}

// ask sends a method and waits for its answer.
func (ch *simClientChannel) ask(answer frame.Method, b frame.Builder, taken func()) {
	ch.answer = answer
	ch.c.send(b, taken)
}

func (ch *simClientChannel) actSeldom() {
	s := ch.c.se.s
	live := ch.live()
	switch p := s.rnd.Float64(); {
	case p < .25:
		tag := live[s.rnd.IntN(len(live))]
		ch.asks = ch.consumers[tag]
		ch.ask(frame.BasicCancelOk, frame.Build(nil, ch.n, frame.BasicCancel).ShortStr(tag).Bit(false), nil)
	case p < .4:
		ch.close()
	case p < .55:
		n := s.prefetch()
		ch.qosAll, ch.nextAll = loosest(ch.qosAll, n), n
		ch.ask(frame.BasicQosOk, frame.Build(nil, ch.n, frame.BasicQos).Long(0).Short(uint16(n)).Bit(true), nil)
	case p < .7:
		ch.recovers = true
		ch.ask(frame.BasicRecoverOk, frame.Build(nil, ch.n, frame.BasicRecover).Bit(true), ch.voids)
	case p < .7+s.gets:
		noAck := byte(s.rnd.IntN(2))
		ch.ask(frame.BasicGetOk, frame.Build(nil, ch.n, frame.BasicGet).Short(0).ShortStr(simStream).Octet(noAck), nil)
	default:
		n := s.prefetch()
		ch.nextAll = ch.qosAll
		ch.qos = n
		ch.ask(frame.BasicQosOk, frame.Build(nil, ch.n, frame.BasicQos).Long(0).Short(uint16(n)).Bit(false), nil)
	}
}

// loosest of two limits, of which 0 is none.
func loosest(a, b int) int {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

func (s *sim) prefetch() int { return []int{0, 1, 1, 2, 3, 7, 20}[s.rnd.IntN(7)] }

// voids: what the client has been given it may not settle any more.
func (ch *simClientChannel) voids() {
	for _, d := range ch.given {
		d.void = d.void || d.settled == never && (ch.closed || !d.noAck)
	}
	ch.given = slices.DeleteFunc(ch.given, func(d *simDelivery) bool { return !d.noAck })
}

func (ch *simClientChannel) close() {
	ch.closed = true
	ch.ask(frame.ChannelCloseOk, frame.Build(nil, ch.n, frame.ChannelClose).Short(200).ShortStr("").Short(0).Short(0), ch.voids)
}

func (ch *simClientChannel) consume(plain bool) {
	s, c := ch.c.se.s, ch.c
	c.tags++
	k := &simClientConsumer{tag: fmt.Sprint("c", c.tags), plain: plain, noAck: s.chance(.15), limit: ch.qos}
	queue := simStream
	if plain {
		k.tag, queue = fmt.Sprint("p", c.tags), simPlain+c.se.node.name
		ch.plain = true
	}
	flags := byte(0)
	if k.noAck {
		flags = consumeNoAck
	}
	ch.consumers[k.tag], ch.asks = k, k
	ch.ask(frame.BasicConsumeOk, frame.Build(nil, ch.n, frame.BasicConsume).Short(0).ShortStr(queue).ShortStr(k.tag).Octet(flags).Table(nil), nil)
}

// settle settles something; when all is to come to rest, in the order in which it came.
func (ch *simClientChannel) settle() {
	s := ch.c.se.s
	at := s.rnd.IntN(len(ch.unsettled))
	if s.chance(.5) || s.resting {
		at = 0
	}
	m, bits := ch.verdict()
	tag := ch.unsettled[at].tag
	multiple := m != frame.BasicReject && bits&1 != 0
	if multiple && !ch.plain && ch.answer == 0 && s.chance(.2) {
		tag = 0
	}
	var settled []*simDelivery
	ch.unsettled = slices.DeleteFunc(ch.unsettled, func(r *simReceived) bool {
		is := r.tag == tag || multiple && (r.tag < tag || tag == 0)
		if is {
			settled = append(settled, r.d)
			if r.k != nil {
				r.k.unsettled--
			}
		}
		return is
	})
	fate := fateOf(m, bits)
	ch.blind = tag == 0
	ch.c.send(frame.Build(nil, ch.n, m).LongLong(tag).Octet(bits), func() {
		if ch.c.se.conn.phase != running { // it counts no more
			return
		}
		if tag == 0 { // those that are on their way too
			settled = slices.Clone(ch.given)
		}
		for _, d := range settled {
			if d.settled == never && !d.noAck {
				d.settled, d.fate, d.held = s.turn, fate, ch.held(d, multiple)
			}
		}
		if tag == 0 {
			ch.forgetSettled()
		}
	})
}

// forgetSettled forgets what arrived behind an ack of all, and before that was taken.
func (ch *simClientChannel) forgetSettled() {
	ch.blind = false
	ch.unsettled = slices.DeleteFunc(ch.unsettled, func(r *simReceived) bool {
		if r.d.settled != never && r.k != nil {
			r.k.unsettled--
		}
		return r.d.settled != never
	})
}

// verdict is what the client says of a message.
func (ch *simClientChannel) verdict() (m frame.Method, bits byte) {
	s := ch.c.se.s
	switch p := s.rnd.Float64(); {
	case p < .15:
		return frame.BasicAck, 1
	case p < .22 && !s.resting:
		return frame.BasicNack, 2
	case p < .25 && !s.resting:
		return frame.BasicNack, 3
	case p < .28 && !s.resting:
		return frame.BasicReject, 1
	case p < .30 && !s.resting:
		return frame.BasicReject, 0
	case p < .32 && !s.resting:
		return frame.BasicNack, 0
	}
	return frame.BasicAck, 0
}

// held tells whether the Conn keeps what the client says of a delivery for later. It does so
// when the channel waits for something; and what the home leg has brought before there was
// anything else on the channel it does not settle along with what others bring.
func (ch *simClientChannel) held(d *simDelivery, multiple bool) bool {
	k := ch.c.se.conn.channel(ch.n)
	before := multiple && d.ch.k.link < 0 && k != nil && k.feed != nil && d.tag <= k.feed.base
	return k == nil || k.wait.what != waitNothing || before
}
