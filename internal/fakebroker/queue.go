package fakebroker

import (
	"slices"
	"time"

	"amqproxy/frame"
)

// queue is one queue.
type queue struct {
	vhost               *vhost
	name                string
	durable, autoDelete bool
	owner               *conn // of an exclusive queue; nil of others
	args                frame.Table
	options

	ready     line
	seq       uint64      // of the last that was pushed
	consumers []*consumer // who is to be served next comes first
	alone     *consumer   // an exclusive one
	bound     []*binding  // that end here
	used      time.Time   // for x-expires
	alarm     time.Time   // the earliest that is set; zero for none
	stamp     uint64      // of the last message that was routed here
	gone      bool
}

func (q *queue) String() string { return q.vhost.called("queue", q.name) }

func (q *queue) locked() error {
	return refuse(frame.ResourceLocked, "cannot obtain exclusive access to locked %s. It could be originally declared "+
		"on another connection or the exclusive property value does not match that of the original declaration.", q)
}

// push stores a message; false if the queue refuses it.
func (q *queue) push(m *message, now time.Time) bool {
	if q.rejects && q.over(1, len(m.body)) {
		if q.lettersRejected {
			q.deadLetter(m, "maxlen", now)
		}
		return false
	}
	q.seq++
	e := &entry{message: m, seq: q.seq, rank: min(m.priority, q.maxPriority)}
	e.until = q.expiry(m, now)
	q.ready.insert(e)
	q.pump(now)
	q.trim(now)
	q.tick(now)
	return true
}

// trim drops what is first while the queue is too long, unless it refuses what comes.
func (q *queue) trim(now time.Time) {
	for !q.rejects && q.ready.len() > 0 && q.over(0, 0) {
		q.deadLetter(q.ready.pop().message, "maxlen", now)
	}
}

// over tells whether the queue is longer than it may be, with some more.
func (q *queue) over(messages, bytes int) bool {
	return q.maxLength >= 0 && q.ready.len()+messages > q.maxLength ||
		q.maxBytes >= 0 && q.ready.bytes+bytes > q.maxBytes
}

// expiry is when a message expires that comes now; zero for never.
func (q *queue) expiry(m *message, now time.Time) time.Time {
	ttl, expires := q.ttl, q.ttl >= 0
	if m.expires && (!expires || m.ttl < ttl) {
		ttl, expires = m.ttl, true
	}
	if !expires {
		return time.Time{}
	}
	return now.Add(ttl)
}

// pump delivers what is ready to who can take it. What expires now is delivered if it
// can be: that is what a time to live of 0 is for.
func (q *queue) pump(now time.Time) {
	for q.ready.len() > 0 {
		if e := q.ready.first(); !e.until.IsZero() && e.until.Before(now) {
			q.deadLetter(q.ready.pop().message, "expired", now)
			continue
		}
		k := q.choose()
		if k == nil {
			return
		}
		k.deliver(q.ready.pop())
	}
}

// choose takes the consumer that is next, of those with the highest priority that can
// take something; nil if there is none.
func (q *queue) choose() *consumer {
	if q.single {
		if len(q.consumers) > 0 && q.consumers[0].able() {
			return q.consumers[0]
		}
		return nil
	}
	best := -1
	for i, k := range q.consumers {
		if (best < 0 || k.priority > q.consumers[best].priority) && k.able() {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	k := q.consumers[best]
	q.consumers = append(slices.Delete(q.consumers, best, best+1), k)
	return k
}

// tick drops what has expired, the queue itself too, and sets the next alarm. Like
// RabbitMQ it looks at the first message only: one that expires sooner waits behind it.
func (q *queue) tick(now time.Time) {
	for q.ready.len() > 0 && !q.ready.first().until.IsZero() && !q.ready.first().until.After(now) {
		q.deadLetter(q.ready.pop().message, "expired", now)
	}
	var next time.Time
	if q.ready.len() > 0 {
		next = q.ready.first().until
	}
	if q.expires > 0 && len(q.consumers) == 0 {
		end := q.used.Add(q.expires)
		if !end.After(now) {
			q.delete()
			return
		}
		if next.IsZero() || end.Before(next) {
			next = end
		}
	}
	if next.IsZero() || !q.alarm.IsZero() && !next.Before(q.alarm) {
		return
	}
	q.alarm = next
	q.vhost.at(next, func(now time.Time) {
		if q.gone {
			return
		}
		if q.alarm.Equal(next) {
			q.alarm = time.Time{}
		}
		q.tick(now)
	})
}

// use says that somebody has done something with the queue, so that it lives on.
func (q *queue) use(now time.Time) {
	q.used = now
	q.tick(now)
}

// requeue takes back what was delivered.
func (q *queue) requeue(entries []*entry, now time.Time) {
	if q.gone {
		return
	}
	for _, e := range slices.Backward(entries) {
		e.redelivered = true
		q.ready.insert(e)
	}
	q.pump(now)
	q.trim(now)
	q.tick(now)
}

// remove takes a consumer out. A queue that wants to goes with its last one.
func (q *queue) remove(k *consumer, now time.Time) {
	q.consumers = slices.DeleteFunc(q.consumers, func(o *consumer) bool { return o == k })
	if q.alone == k {
		q.alone = nil
	}
	if q.autoDelete && len(q.consumers) == 0 {
		q.delete()
		return
	}
	q.use(now)
	q.pump(now)
}

// delete deletes the queue and tells its consumers.
func (q *queue) delete() (messages int) {
	if q.gone {
		return 0
	}
	q.gone = true
	delete(q.vhost.queues, q.name)
	for _, b := range slices.Clone(q.bound) {
		b.unbind()
	}
	for _, k := range q.consumers {
		k.cancelled()
	}
	q.consumers = nil
	return q.ready.clear()
}
