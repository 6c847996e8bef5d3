package fakebroker

import (
	"crypto/rand"
	"slices"
	"time"

	"amqproxy/frame"
)

// queue finds a queue by its name, or the one that was declared last.
func (ch *channel) queue(name string) (*queue, error) {
	if name == "" {
		if name = ch.lastQueue; name == "" {
			return nil, refuse(frame.NotFound, "no previously declared queue")
		}
	}
	return ch.conn.vhost.queue(name, ch.conn)
}

func (ch *channel) queueDeclare(a *frame.Args) error {
	a.Short()
	want := &queue{vhost: ch.conn.vhost, name: string(a.ShortStr())}
	passive, exclusive := a.Bit(), false
	want.durable, exclusive, want.autoDelete = a.Bit(), a.Bit(), a.Bit()
	nowait, args := a.Bit(), slices.Clone(a.Table())
	if !a.OK() {
		return nil
	}
	want.args = args
	if exclusive {
		want.owner, want.durable = ch.conn, false
	}
	q, err := ch.declareQueue(want, passive)
	if err != nil {
		return err
	}
	ch.lastQueue = q.name
	if !nowait {
		ch.answer(frame.QueueDeclareOk, func(b frame.Builder) frame.Builder {
			return b.ShortStr(q.name).Long(uint32(q.ready.len())).Long(uint32(len(q.consumers)))
		})
	}
	return nil
}

func (ch *channel) declareQueue(want *queue, passive bool) (*queue, error) {
	if passive {
		return ch.conn.vhost.queue(want.name, ch.conn)
	}
	v, now := ch.conn.vhost, time.Now()
	switch {
	case want.name == "":
		want.name = "amq.gen-" + rand.Text()[:22]
	case notReserved("queue", want.name) != nil:
		return nil, notReserved("queue", want.name)
	case v.queues[want.name] != nil:
		q, err := v.queue(want.name, ch.conn)
		if err == nil {
			err = q.sameAs(want)
		}
		if err != nil {
			return nil, err
		}
		q.use(now)
		return q, nil
	}
	var err error
	if want.options, err = readOptions(want.args, want.String()); err != nil {
		return nil, err
	}
	v.queues[want.name] = want
	want.use(now)
	return want, nil
}

func (ch *channel) queueBind(a *frame.Args) error {
	a.Short()
	b, nowait, err := ch.queueBinding(a, (*frame.Args).Bit)
	if err == nil {
		err = b.check()
	}
	if err != nil || !a.OK() {
		return err
	}
	b.bind()
	ch.ok(frame.QueueBindOk, nowait)
	return nil
}

func (ch *channel) queueUnbind(a *frame.Args) error {
	a.Short()
	b, _, err := ch.queueBinding(a, func(*frame.Args) bool { return false })
	if err != nil && !isMissing(err) || !a.OK() {
		return err
	}
	if err == nil {
		b.unbind()
	}
	ch.ok(frame.QueueUnbindOk, false)
	return nil
}

// queueBinding reads the arguments that bind and unbind have in common; the one has
// nowait, and the other has not.
func (ch *channel) queueBinding(a *frame.Args, readNowait func(*frame.Args) bool) (b *binding, nowait bool, err error) {
	name, from := string(a.ShortStr()), string(a.ShortStr())
	b = &binding{key: string(a.ShortStr())}
	nowait, b.args = readNowait(a), slices.Clone(a.Table())
	if name == "" && b.key == "" {
		b.key = ch.lastQueue
	}
	if err := notDefault(from); err != nil {
		return nil, false, err
	}
	if b.queue, err = ch.queue(name); err == nil {
		b.from, err = ch.conn.vhost.exchange(from)
	}
	return b, nowait, err
}

func (ch *channel) queuePurge(a *frame.Args) error {
	a.Short()
	name, nowait := string(a.ShortStr()), a.Bit()
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	n := q.ready.clear()
	if !nowait {
		ch.answer(frame.QueuePurgeOk, func(b frame.Builder) frame.Builder { return b.Long(uint32(n)) })
	}
	return nil
}

func (ch *channel) queueDelete(a *frame.Args) error {
	a.Short()
	name, ifUnused, ifEmpty, nowait := string(a.ShortStr()), a.Bit(), a.Bit(), a.Bit()
	q, n := (*queue)(nil), 0
	if name == "" || ch.conn.vhost.queues[name] != nil {
		var err error
		if q, err = ch.queue(name); err != nil {
			return err
		}
		switch {
		case ifUnused && len(q.consumers) > 0:
			return refuse(frame.PreconditionFailed, "%s in use", q)
		case ifEmpty && q.ready.len() > 0:
			return refuse(frame.PreconditionFailed, "%s not empty", q)
		}
		n = q.delete()
	}
	if !nowait {
		ch.answer(frame.QueueDeleteOk, func(b frame.Builder) frame.Builder { return b.Long(uint32(n)) })
	}
	return nil
}
