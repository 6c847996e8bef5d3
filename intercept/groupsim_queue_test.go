package intercept

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"amqproxy/frame"
)

// simQueue is a queue: a shard, or one that clients consume by its own name.
type simQueue struct {
	b         *simBroker
	name      string
	shard     bool
	single    bool          // it serves one consumer at a time, the first
	ready     []*simMessage // in their order
	pushed    int
	consumers []*simConsumer // who is to be served next comes first

	retired, closing, gone bool
	keys                   []*simKey
}

// simKey is what messages are in order by.
type simKey struct {
	q        *simQueue
	name     string
	messages []*simMessage
	seen     int // how many of them clients have seen
}

type simMessage struct {
	key   *simKey // nil on a queue that is no shard
	q     *simQueue
	n     int // among those of the key
	place int // in the queue
	last  *simDelivery
	seen  bool // by a client
	done  bool // acked, or dropped because a client wanted that
}

// simDelivery is one delivery of a message; another one of the same message is another.
type simDelivery struct {
	serial int
	tag    uint64
	m      *simMessage
	q      *simQueue
	c      *simConsumer // nil: it was got
	ch     *simChannel
	again  bool
	over   bool // the broker waits for nothing any more

	given   int // the turn when the Conn had it for the client; never
	to      *simClientChannel
	noAck   bool // the client need not settle it
	settled int  // the turn when the Conn took what the client said of it; never
	fate    fate
	held    bool // it may be that the Conn keeps what it said for later
	void    bool // the client has recovered its channel, or closed it
}

const never = math.MaxInt

func (d *simDelivery) String() string {
	return fmt.Sprintf("delivery %d of message %d of %s", d.serial, d.m.n, d.m.name())
}

func (m *simMessage) name() string {
	if m.key == nil {
		return m.q.name
	}
	return m.key.name
}

// fate is what a client wants of a message.
type fate uint8

const (
	fateAcked fate = iota
	fateRequeued
	fateDropped
)

func fateOf(m frame.Method, bits byte) fate {
	switch {
	case m == frame.BasicAck:
		return fateAcked
	case m == frame.BasicNack && bits&2 != 0, m == frame.BasicReject && bits&1 != 0:
		return fateRequeued
	}
	return fateDropped
}

// free frees the delivery's place in its consumer's prefetch.
func (d *simDelivery) free() {
	if d.c != nil {
		d.c.unacked--
	}
}

func (q *simQueue) push(key *simKey) {
	m := &simMessage{key: key, q: q, n: q.pushed, place: q.pushed}
	q.pushed++
	if key != nil {
		m.n = len(key.messages)
		key.messages = append(key.messages, m)
	}
	q.b.s.messages = append(q.b.s.messages, m)
	q.ready = append(q.ready, m)
	q.pump()
}

func (q *simQueue) pop() *simMessage {
	m := q.ready[0]
	q.ready = q.ready[1:]
	return m
}

// requeue puts messages back in their places.
func requeue(back []*simDelivery) {
	queues := map[string]*simQueue{}
	for _, d := range back {
		queues[d.q.name] = d.q
		d.q.ready = append(d.q.ready, d.m)
	}
	for _, name := range sortedKeys(queues) {
		q := queues[name]
		slices.SortFunc(q.ready, func(a, b *simMessage) int { return cmp.Compare(a.place, b.place) })
		q.pump()
	}
}

// pump delivers what is ready to who can take it.
func (q *simQueue) pump() {
	for q.b.up && len(q.ready) > 0 {
		c := q.next()
		if c == nil {
			return
		}
		m := q.pop()
		q.b.s.checkDelivers(c, m)
		d := c.ch.deliver(m, q, c)
		if c.noAck {
			c.ch.acked(d)
		} else {
			c.unacked++
		}
		q.b.s.trace("%s delivers %v to %s", q.b.name, d, c)
		q.b.s.checkHeld(c)
		c.ch.send(frame.Build(nil, c.ch.n, frame.BasicDeliver).ShortStr(c.tag).LongLong(d.tag).Bit(d.again).ShortStr("v").ShortStr("k"), d)
	}
}

func (c *simConsumer) String() string {
	return fmt.Sprintf("%s, %s channel %d link %d", c.tag, c.ch.k.se, c.ch.n, c.ch.k.link)
}

// next is the consumer that gets the next message; nil if none can take it.
func (q *simQueue) next() *simConsumer {
	for i, c := range q.consumers {
		if q.single && i > 0 {
			return nil
		}
		if c.prefetch == 0 || c.unacked < c.prefetch {
			if !q.single {
				q.consumers = append(slices.Delete(q.consumers, i, i+1), c)
			}
			return c
		}
	}
	return nil
}

func (q *simQueue) remove(c *simConsumer) {
	q.consumers = slices.DeleteFunc(q.consumers, func(o *simConsumer) bool { return o == c })
}

// find is a queue that a broker serves: one of its own, or with a cluster of any that is up.
func (b *simBroker) find(name string) *simQueue {
	for _, o := range b.s.brokers {
		if q := o.queues[name]; q != nil && o.up && (o == b || b.s.cluster) {
			return q
		}
	}
	return nil
}

// crash ends a broker. What others lead to of its queues has no consumers any more.
func (b *simBroker) crash() {
	b.up = false
	b.s.trace("the broker %s crashes", b.name)
	for len(b.conns) > 0 {
		k := b.conns[0]
		k.up.shut = true
		k.end(packet{turn: -1})
	}
	for _, o := range b.s.brokers {
		for _, k := range o.conns {
			for _, n := range sortedKeys(k.channels) {
				k.channels[n].queueDown(b)
			}
		}
	}
}

// queueDown says that a broker is down whose queues the channel consumes.
func (ch *simChannel) queueDown(b *simBroker) {
	for _, c := range slices.Clone(ch.consumers) {
		if c.q.b == b { // which is down: nothing is delivered
			ch.remove(c.tag)
			c.cancelled = true
			ch.k.answer(frame.Build(nil, ch.n, frame.BasicCancel).ShortStr(c.tag).Bit(true))
		}
	}
	var back []*simDelivery
	for _, d := range ch.unacked {
		if d.q.b == b && !d.over {
			d.over = true
			back = append(back, d)
		}
	}
	requeue(back)
}

func (b *simBroker) restart() {
	if !b.up {
		b.s.trace("the broker %s is back", b.name)
		b.up = true
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
