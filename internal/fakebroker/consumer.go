package fakebroker

import (
	"time"

	"amqproxy/frame"
)

// consumer is one consumer.
type consumer struct {
	channel  *channel
	queue    *queue
	tag      string
	noAck    bool
	priority int64
	prefetch int // 0 is without limit
	credit   int // how many more it takes, where its arguments say; below 0 is without limit
	unacked  int
}

// able tells whether the consumer can take a message. It asks for room last, since who
// finds none is told when there is some.
func (k *consumer) able() bool {
	ch := k.channel
	if ch.closing || ch.conn.leaving || k.credit == 0 {
		return false
	}
	if !k.noAck && (k.prefetch > 0 && k.unacked >= k.prefetch || ch.prefetch > 0 && ch.consumed >= ch.prefetch) {
		return false
	}
	return !ch.conn.out.full()
}

// deliver delivers a message.
func (k *consumer) deliver(e *entry) {
	ch := k.channel
	ch.tag++
	ch.conn.out.add(func(dst []byte) []byte {
		dst = frame.Build(dst, ch.number, frame.BasicDeliver).ShortStr(k.tag).LongLong(ch.tag).Bit(e.redelivered).
			ShortStr(e.exchange).ShortStr(e.keys[0]).End()
		return e.appendTo(dst, ch)
	})
	if k.credit > 0 {
		k.credit--
	}
	d := &delivery{ch.tag, k.queue, k, e}
	if k.noAck {
		d.taken()
		return
	}
	k.unacked++
	ch.consumed++
	ch.unacked = append(ch.unacked, d)
}

// cancelled says that the queue is gone.
func (k *consumer) cancelled() {
	delete(k.channel.consumers, k.tag)
	if k.channel.conn.can.cancel && !k.channel.closing && !k.channel.conn.leaving {
		k.channel.conn.out.add(func(dst []byte) []byte {
			return frame.Build(dst, k.channel.number, frame.BasicCancel).ShortStr(k.tag).Bit(true).End()
		})
	}
}

// delivery is a message that a client has and did not acknowledge.
type delivery struct {
	tag      uint64
	queue    *queue
	consumer *consumer // nil of basic.get
	entry    *entry
}

// taken says that the message is gone.
func (d *delivery) taken() {
	tag := ""
	if d.consumer != nil {
		tag = d.consumer.tag
	}
	if told := d.queue.vhost.taken; told != nil {
		told(d.queue.name, tag)
	}
}

// settled frees the delivery's place in the limits of consumer and channel.
func (d *delivery) settled(ch *channel) {
	if d.consumer != nil {
		d.consumer.unacked--
		ch.consumed--
	}
}

// resume goes on with deliveries to all consumers of the channel.
func (ch *channel) resume(now time.Time) {
	for _, k := range ch.consumers {
		k.queue.pump(now)
		k.queue.tick(now)
	}
}

// requeue gives deliveries back to their queues, those of a queue together.
func (ch *channel) requeue(back []*delivery, now time.Time) {
	var order []*queue
	of := map[*queue][]*entry{}
	for _, d := range back {
		if of[d.queue] == nil {
			order = append(order, d.queue)
		}
		of[d.queue] = append(of[d.queue], d.entry)
	}
	for _, q := range order {
		q.requeue(of[q], now)
	}
}
