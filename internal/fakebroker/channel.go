package fakebroker

import (
	"errors"
	"fmt"
	"time"

	"amqproxy/frame"
)

// channel is one channel.
type channel struct {
	conn    *conn
	number  uint16
	closing bool // only close-ok is waited for
	publication
	confirms
	tx *transaction // nil without one

	lastQueue string // that was declared
	consumers map[string]*consumer
	prefetch  int // of all consumers together; 0 is without limit
	each      int // prefetch of a consumer that begins
	tag       uint64
	unacked   []*delivery // by tag
	consumed  int         // of unacked, those that were not got
}

func (c *conn) openChannel(n uint16) error {
	if len(c.channels) >= c.channelMax {
		return &frame.ConnError{Code: frame.NotAllowed, Text: fmt.Sprintf(
			"number of channels opened (%d) has reached the negotiated channel_max (%d)", len(c.channels), c.channelMax)}
	}
	ch := &channel{conn: c, number: n, consumers: map[string]*consumer{}}
	c.channels[n] = ch
	ch.answer(frame.ChannelOpenOk, func(b frame.Builder) frame.Builder { return b.LongStr("") })
	return nil
}

// answer sends a method.
func (ch *channel) answer(m frame.Method, args func(frame.Builder) frame.Builder) {
	ch.conn.out.add(func(dst []byte) []byte {
		b := frame.Build(dst, ch.number, m)
		if args != nil {
			b = args(b)
		}
		return b.End()
	})
}

// ok sends a method without arguments, unless none is wanted.
func (ch *channel) ok(m frame.Method, nowait bool) {
	if !nowait {
		ch.answer(m, nil)
	}
}

// frame takes a frame of the channel.
func (ch *channel) frame(f frame.Frame) error {
	if ch.closing {
		ch.parting(f)
		return nil
	}
	err := ch.take(f)
	var refused *frame.ChannelError
	if !errors.As(err, &refused) {
		return err
	}
	refused.Method = frame.BasicPublish
	if f.Type() == frame.TypeMethod {
		refused.Method = f.Method()
	}
	ch.close()
	ch.closing = true
	ch.conn.out.add(func(dst []byte) []byte { return frame.AppendChannelClose(dst, ch.number, refused) })
	return nil
}

// parting takes a frame of a channel that we have closed.
func (ch *channel) parting(f frame.Frame) {
	if f.Type() != frame.TypeMethod {
		return
	}
	switch f.Method() {
	case frame.ChannelCloseOk:
		delete(ch.conn.channels, ch.number)
	case frame.ChannelClose:
		ch.ok(frame.ChannelCloseOk, false)
	}
}

// close ends all that the channel does: consumers first, so that none of them gets
// again what goes back to the queues.
func (ch *channel) close() {
	if ch.closing {
		return
	}
	now := time.Now()
	ch.closing = true
	for tag, k := range ch.consumers {
		delete(ch.consumers, tag)
		k.queue.remove(k, now)
	}
	if ch.tx != nil {
		ch.keep(ch.tx.settled)
	}
	back := ch.unacked
	ch.unacked = nil
	ch.requeue(back, now)
}

// take takes a frame of an open channel.
func (ch *channel) take(f frame.Frame) error {
	if f.Type() != frame.TypeMethod {
		return ch.content(f)
	}
	m := f.Method()
	if err := ch.expectMethod(m); err != nil {
		return err
	}
	do, known := methods[m]
	if !known {
		return ch.unknown(m)
	}
	a := f.Args()
	err := do(ch, &a)
	if !a.OK() {
		return &frame.ConnError{Code: frame.FrameError, Text: "cannot decode " + erlang(f.Payload()[4:]), Method: m}
	}
	var hard *frame.ConnError
	if errors.As(err, &hard) && hard.Method == 0 {
		hard.Method = m
	}
	return err
}

// unknown tells what happens to a method that is no request of a client. One that is
// not in the protocol ends the connection without a word.
func (ch *channel) unknown(m frame.Method) error {
	if m.String() == "unknown method" {
		return errSilently
	}
	return &frame.ConnError{Code: frame.CommandInvalid, Text: "unimplemented method", Method: m}
}

// methods are what a client may ask of a channel.
var methods = map[frame.Method]func(*channel, *frame.Args) error{
	frame.ChannelOpen:       (*channel).openAgain,
	frame.ChannelFlow:       (*channel).flow,
	frame.ChannelClose:      (*channel).closed,
	frame.ChannelCloseOk:    (*channel).nothing,
	frame.AccessRequest:     (*channel).access,
	frame.ExchangeDeclare:   (*channel).exchangeDeclare,
	frame.ExchangeDelete:    (*channel).exchangeDelete,
	frame.ExchangeBind:      (*channel).exchangeBind,
	frame.ExchangeUnbind:    (*channel).exchangeUnbind,
	frame.QueueDeclare:      (*channel).queueDeclare,
	frame.QueueBind:         (*channel).queueBind,
	frame.QueueUnbind:       (*channel).queueUnbind,
	frame.QueuePurge:        (*channel).queuePurge,
	frame.QueueDelete:       (*channel).queueDelete,
	frame.BasicQos:          (*channel).qos,
	frame.BasicConsume:      (*channel).consume,
	frame.BasicCancel:       (*channel).cancel,
	frame.BasicCancelOk:     (*channel).nothing,
	frame.BasicPublish:      (*channel).publish,
	frame.BasicGet:          (*channel).get,
	frame.BasicAck:          (*channel).ack,
	frame.BasicNack:         (*channel).nack,
	frame.BasicReject:       (*channel).reject,
	frame.BasicRecover:      (*channel).recover,
	frame.BasicRecoverAsync: (*channel).recoverAsync,
	frame.ConfirmSelect:     (*channel).confirmSelect,
	frame.TxSelect:          (*channel).txSelect,
	frame.TxCommit:          (*channel).txCommit,
	frame.TxRollback:        (*channel).txRollback,
}

func (*channel) nothing(*frame.Args) error { return nil }

func (*channel) openAgain(*frame.Args) error {
	return &frame.ConnError{Code: frame.ChannelErrorCode, Text: "second 'channel.open' seen"}
}

func (ch *channel) closed(*frame.Args) error {
	ch.close()
	delete(ch.conn.channels, ch.number)
	ch.ok(frame.ChannelCloseOk, false)
	return nil
}

func (ch *channel) flow(a *frame.Args) error {
	if !a.Bit() {
		return &frame.ConnError{Code: frame.NotImplemented, Text: "active=false"}
	}
	ch.answer(frame.ChannelFlowOk, func(b frame.Builder) frame.Builder { return b.Bit(true) })
	return nil
}

func (ch *channel) access(*frame.Args) error {
	ch.answer(frame.AccessRequestOk, func(b frame.Builder) frame.Builder { return b.Short(1) })
	return nil
}
