package fakebroker

import (
	"slices"
	"time"

	"amqproxy/frame"
)

// confirms are what a channel owes its publisher.
type confirms struct {
	confirming bool
	last       uint64   // number of the last publish
	owed       []settle // to be given behind what was read at once, in the order of their numbers
	waiting    []settle // held back by a fault, in the order of their numbers
}

// settle is the fate of a publish.
type settle struct {
	number uint64
	acked  bool
}

func (ch *channel) confirmSelect(a *frame.Args) error {
	nowait := a.Bit()
	if ch.tx != nil {
		return refuse(frame.PreconditionFailed, "cannot switch from tx to confirm mode")
	}
	ch.confirming = true
	ch.ok(frame.ConfirmSelectOk, nowait)
	return nil
}

// confirm settles the publish that is next.
func (ch *channel) confirm(acked bool, now time.Time) {
	ch.last++
	s := settle{ch.last, acked}
	delay := ch.conn.server.control.delay()
	if delay == 0 {
		if len(ch.owed) == 0 {
			ch.conn.owing = append(ch.conn.owing, ch)
		}
		ch.owed = append(ch.owed, s)
		return
	}
	ch.waiting = append(ch.waiting, s)
	ch.conn.vhost.at(now.Add(delay), func(time.Time) { ch.release(s) })
}

// payConfirms gives the confirms that are owed, as few frames as they need.
func (c *conn) payConfirms() error {
	for _, ch := range c.owing {
		if !ch.closing {
			ch.pay()
		}
		ch.owed = ch.owed[:0]
	}
	c.owing = c.owing[:0]
	return nil
}

// pay sends what is owed. One frame for several is for all before it as well, so there
// is none while something waits.
func (ch *channel) pay() {
	for owed := ch.owed; len(owed) > 0; {
		n := 1
		for n < len(owed) && owed[n].acked == owed[0].acked && len(ch.waiting) == 0 {
			n++
		}
		// RabbitMQ says so of a single nack, too.
		ch.sendConfirm(owed[n-1], n > 1 || !owed[0].acked && len(ch.waiting) == 0)
		owed = owed[n:]
	}
}

// release gives a confirm that was held back, alone or with all that wait before it.
func (ch *channel) release(s settle) {
	at := slices.Index(ch.waiting, s)
	if at < 0 || ch.closing {
		return // it went with another, or nobody waits for it
	}
	alike := !slices.ContainsFunc(ch.waiting[:at], func(o settle) bool { return o.acked != s.acked })
	several := alike && len(ch.owed) == 0 && ch.conn.server.control.several()
	ch.sendConfirm(s, several)
	if several {
		ch.waiting = slices.Delete(ch.waiting, 0, at+1)
	} else {
		ch.waiting = slices.Delete(ch.waiting, at, at+1)
	}
}

func (ch *channel) sendConfirm(s settle, several bool) {
	if s.acked {
		ch.answer(frame.BasicAck, func(b frame.Builder) frame.Builder { return b.LongLong(s.number).Bit(several) })
		return
	}
	ch.answer(frame.BasicNack, func(b frame.Builder) frame.Builder { return b.LongLong(s.number).Bit(several).Bit(true) })
}
