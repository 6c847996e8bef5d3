package fakebroker

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"amqproxy/frame"
)

func (ch *channel) qos(a *frame.Args) error {
	size, count, global := a.Long(), int(a.Short()), a.Bit()
	if size != 0 {
		return &frame.ConnError{Code: frame.NotImplemented, Text: fmt.Sprintf("prefetch_size!=0 (%d)", size)}
	}
	ch.ok(frame.BasicQosOk, false)
	if global {
		ch.prefetch = count
		ch.resume(time.Now())
	} else {
		ch.each = count
	}
	return nil
}

func (ch *channel) consume(a *frame.Args) error {
	a.Short()
	name, tag := string(a.ShortStr()), string(a.ShortStr())
	a.Bit() // no-local, which RabbitMQ does not know either
	noAck, exclusive, nowait, args := a.Bit(), a.Bit(), a.Bit(), slices.Clone(a.Table())
	if !a.OK() {
		return nil
	}
	if tag == "" {
		tag = "amq.ctag-" + rand.Text()[:22]
	}
	if ch.consumers[tag] != nil {
		return &frame.ConnError{Code: frame.NotAllowed, Text: fmt.Sprintf("attempt to reuse consumer tag '%s'", tag)}
	}
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	if q.alone != nil || exclusive && (len(q.consumers) > 0 || q.single) {
		return refuse(frame.AccessRefused, "%s in exclusive use", q)
	}
	k := &consumer{channel: ch, queue: q, tag: tag, noAck: noAck, prefetch: ch.each, credit: -1}
	if f, found, _ := args.Find("x-priority"); found {
		n, isInt := f.Int()
		if !isInt {
			return refuse(frame.PreconditionFailed, "invalid arg 'x-priority' for %s: %s", q, noInteger(f))
		}
		k.priority = n
	}
	if f, found, _ := args.Find("x-credit"); found {
		credit, _, _ := frame.Table(f.Value).Find("credit")
		n, _ := credit.Int()
		k.credit = int(n)
	}
	if exclusive {
		q.alone = k
	}
	ch.consumers[tag] = k
	q.consumers = append(q.consumers, k)
	if !nowait {
		ch.answer(frame.BasicConsumeOk, func(b frame.Builder) frame.Builder { return b.ShortStr(tag) })
	}
	now := time.Now()
	q.pump(now)
	q.use(now)
	return nil
}

func (ch *channel) cancel(a *frame.Args) error {
	tag, nowait := string(a.ShortStr()), a.Bit()
	if k := ch.consumers[tag]; k != nil {
		delete(ch.consumers, tag)
		k.queue.remove(k, time.Now())
	}
	if !nowait {
		ch.answer(frame.BasicCancelOk, func(b frame.Builder) frame.Builder { return b.ShortStr(tag) })
	}
	return nil
}

func (ch *channel) get(a *frame.Args) error {
	a.Short()
	name, noAck := string(a.ShortStr()), a.Bit()
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	q.use(time.Now())
	if q.ready.len() == 0 {
		ch.answer(frame.BasicGetEmpty, func(b frame.Builder) frame.Builder { return b.ShortStr("") })
		return nil
	}
	e := q.ready.pop()
	ch.tag++
	ch.conn.out.add(func(dst []byte) []byte {
		dst = frame.Build(dst, ch.number, frame.BasicGetOk).LongLong(ch.tag).Bit(e.redelivered).
			ShortStr(e.exchange).ShortStr(e.keys[0]).Long(uint32(q.ready.len())).End()
		return e.appendTo(dst, ch)
	})
	if d := (&delivery{ch.tag, q, nil, e}); noAck {
		d.taken()
	} else {
		ch.unacked = append(ch.unacked, d)
	}
	return nil
}

func (ch *channel) ack(a *frame.Args) error {
	tag, several := a.LongLong(), a.Bit()
	return ch.settle(tag, several, func(acked []*delivery, _ time.Time) {
		for _, d := range acked {
			d.taken()
		}
	})
}

func (ch *channel) nack(a *frame.Args) error {
	tag, several, requeue := a.LongLong(), a.Bit(), a.Bit()
	return ch.settle(tag, several, ch.fate(requeue))
}

func (ch *channel) reject(a *frame.Args) error {
	tag, requeue := a.LongLong(), a.Bit()
	return ch.settle(tag, false, ch.fate(requeue))
}

// fate is what becomes of deliveries that were rejected.
func (ch *channel) fate(requeue bool) func([]*delivery, time.Time) {
	if requeue {
		return ch.requeue
	}
	return func(rejected []*delivery, now time.Time) {
		for _, d := range rejected {
			d.taken()
			if !d.queue.gone {
				d.queue.deadLetter(d.entry.message, "rejected", now)
			}
		}
	}
}

// settle takes deliveries from the client and does to them what do says, at the commit
// if there is a transaction.
func (ch *channel) settle(tag uint64, several bool, do func([]*delivery, time.Time)) error {
	taken, err := ch.takeUnacked(tag, several)
	if err != nil {
		return err
	}
	finish := func(now time.Time) {
		for _, d := range taken {
			d.settled(ch)
		}
		do(taken, now)
		ch.resume(now)
	}
	if ch.tx != nil {
		ch.tx.settled = append(ch.tx.settled, taken...)
		ch.tx.fates = append(ch.tx.fates, finish)
		return nil
	}
	finish(time.Now())
	return nil
}

// takeUnacked takes one delivery, or all up to one; those of tag 0 are all.
func (ch *channel) takeUnacked(tag uint64, several bool) (taken []*delivery, err error) {
	if tag == 0 && several {
		taken, ch.unacked = ch.unacked, nil
		return taken, nil
	}
	at, found := slices.BinarySearchFunc(ch.unacked, tag, func(d *delivery, tag uint64) int { return cmp.Compare(d.tag, tag) })
	if !found {
		return nil, refuse(frame.PreconditionFailed, "unknown delivery tag %d", tag)
	}
	if several || at == 0 {
		taken, ch.unacked = ch.unacked[:at+1:at+1], ch.unacked[at+1:]
		return taken, nil
	}
	taken = []*delivery{ch.unacked[at]}
	ch.unacked = slices.Delete(ch.unacked, at, at+1)
	return taken, nil
}

// keep puts deliveries back among those that are not acknowledged.
func (ch *channel) keep(deliveries []*delivery) {
	ch.unacked = append(ch.unacked, deliveries...)
	slices.SortFunc(ch.unacked, func(a, b *delivery) int { return cmp.Compare(a.tag, b.tag) })
}

func (ch *channel) recover(a *frame.Args) error {
	if err := ch.recoverAsync(a); err != nil {
		return err
	}
	ch.ok(frame.BasicRecoverOk, false)
	return nil
}

// recoverAsync gives all back that is not acknowledged, to be delivered to anybody.
func (ch *channel) recoverAsync(a *frame.Args) error {
	if !a.Bit() {
		return &frame.ConnError{Code: frame.NotImplemented, Text: "requeue=false"}
	}
	back, now := ch.unacked, time.Now()
	ch.unacked = nil
	for _, d := range back {
		d.settled(ch)
	}
	ch.requeue(back, now)
	ch.resume(now)
	return nil
}
