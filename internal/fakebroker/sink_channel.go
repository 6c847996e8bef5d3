package fakebroker

import (
	"bytes"
	"fmt"

	"amqproxy/frame"
)

// sinkChannel is one open channel.
type sinkChannel struct {
	number    uint16
	confirms  bool
	owes      bool   // it is in conn.owing
	published uint64 // whole messages
	left      uint64 // octets of the body that are still to come
	tags      uint64 // for consumers without one
	consumers map[string]*sinkConsumer

	// back is a message that goes back to the client: its method first.
	back   []byte
	backOn uint16 // the channel it goes to
}

func (c *sink) open(n uint16) error {
	for int(n) >= len(c.channels) {
		c.channels = append(c.channels, nil)
	}
	if c.channels[n] != nil {
		return &frame.ConnError{Code: frame.ChannelErrorCode, Text: "second 'channel.open' seen", Method: frame.ChannelOpen}
	}
	c.channels[n] = &sinkChannel{number: n}
	c.out = frame.Build(c.out, n, frame.ChannelOpenOk).LongStr("").End()
	return nil
}

// probe is how the key of a message begins that is for no queue.
var probe = []byte("amqproxy-probe:")

// publish begins a message.
func (c *sink) publish(ch *sinkChannel, f frame.Frame) error {
	mandatory := f[len(f)-2]&1 != 0 // the bits are the last octet
	if !mandatory && c.echo == nil {
		return nil
	}
	a := f.Args()
	a.Short()
	exchange, key := a.ShortStr(), a.ShortStr()
	switch {
	case mandatory && bytes.HasPrefix(key, probe):
		ch.backOn = ch.number
		ch.back = frame.Build(ch.back[:0], ch.number, frame.BasicReturn).
			Short(frame.NoRoute).ShortStr("NO_ROUTE").ShortStr(string(exchange)).ShortStr(string(key)).End()
	case c.echo != nil:
		ch.backOn = c.echo.channel
		ch.back = c.echo.appendDeliver(ch.back[:0], exchange, key)
	}
	return nil
}

// content takes the header or a body of a message.
func (c *sink) content(ch *sinkChannel, f frame.Frame) error {
	if f.Type() == frame.TypeHeader {
		size, ok := frame.BodySize(f)
		if !ok {
			return &frame.ConnError{Code: frame.FrameError, Text: "a header frame that is too short"}
		}
		ch.left = size
	} else {
		ch.left -= min(ch.left, uint64(len(f.Payload())))
	}
	if len(ch.back) > 0 {
		at := len(ch.back)
		ch.back = append(ch.back, f...)
		frame.Frame(ch.back[at:]).SetChannel(ch.backOn)
	}
	if ch.left > 0 {
		return nil
	}
	ch.published++
	c.out = append(c.out, ch.back...)
	ch.back = ch.back[:0]
	if ch.confirms && !ch.owes {
		ch.owes = true
		c.owing = append(c.owing, ch)
	}
	return nil
}

// shape is where a method's arguments say that it wants no answer: behind a
// short or not and so many short strings, in the so-manieth bit. The zero shape is
// that of methods that always have an answer.
type shape struct {
	short        bool
	strings, bit int
}

// sinkAnswers are the answers that carry nothing, or nothing but zeroes.
var sinkAnswers = map[frame.Method]struct {
	method frame.Method
	zeroes int // longs
	shape  shape
}{
	frame.ExchangeDeclare: {frame.ExchangeDeclareOk, 0, shape{true, 2, 5}},
	frame.ExchangeDelete:  {frame.ExchangeDeleteOk, 0, shape{true, 1, 2}},
	frame.ExchangeBind:    {frame.ExchangeBindOk, 0, shape{true, 3, 1}},
	frame.ExchangeUnbind:  {frame.ExchangeUnbindOk, 0, shape{true, 3, 1}},
	frame.QueueBind:       {frame.QueueBindOk, 0, shape{true, 3, 1}},
	frame.QueueUnbind:     {frame.QueueUnbindOk, 0, shape{}},
	frame.QueuePurge:      {frame.QueuePurgeOk, 1, shape{true, 1, 1}},
	frame.QueueDelete:     {frame.QueueDeleteOk, 1, shape{true, 1, 3}},
	frame.BasicQos:        {frame.BasicQosOk, 0, shape{}},
	frame.BasicRecover:    {frame.BasicRecoverOk, 0, shape{}},
	frame.ConfirmSelect:   {frame.ConfirmSelectOk, 0, shape{false, 0, 1}},
}

// silent tells whether a method wants no answer.
func (s shape) silent(f frame.Frame) bool {
	if s.bit == 0 {
		return false
	}
	a := f.Args()
	if s.short {
		a.Short()
	}
	for range s.strings {
		a.ShortStr()
	}
	for range s.bit - 1 {
		a.Bit()
	}
	return a.Bit()
}

// method takes any other method on an open channel.
func (c *sink) method(ch *sinkChannel, f frame.Frame) error {
	m := f.Method()
	if m == frame.ConfirmSelect {
		ch.confirms = true
	}
	if answer, plain := sinkAnswers[m]; plain {
		if answer.shape.silent(f) {
			return nil
		}
		b := frame.Build(c.out, ch.number, answer.method)
		for range answer.zeroes {
			b = b.Long(0)
		}
		c.out = b.End()
		return nil
	}
	switch m {
	case frame.QueueDeclare:
		c.queueDeclare(ch, f)
	case frame.ChannelFlow:
		a := f.Args()
		c.out = frame.Build(c.out, ch.number, frame.ChannelFlowOk).Bit(a.Bit()).End()
	case frame.BasicConsume:
		c.consume(ch, f)
	case frame.BasicCancel:
		c.cancel(ch, f)
	case frame.BasicGet:
		c.out = frame.Build(c.out, ch.number, frame.BasicGetEmpty).ShortStr("").End()
	case frame.ChannelClose:
		c.closeChannel(ch)
		c.out = frame.Build(c.out, ch.number, frame.ChannelCloseOk).End()
	case frame.BasicAck, frame.BasicNack, frame.BasicReject, frame.ChannelCloseOk, frame.BasicCancelOk:
	default:
		return &frame.ConnError{Code: frame.NotImplemented, Text: fmt.Sprintf("%s is not known here", m), Method: m}
	}
	return nil
}

func (c *sink) closeChannel(ch *sinkChannel) {
	for _, k := range ch.consumers {
		c.stop(k)
	}
	c.channels[ch.number] = nil
}

// queueDeclare answers as for an empty queue. A passive one is refused when nobody
// has declared the queue.
func (c *sink) queueDeclare(ch *sinkChannel, f frame.Frame) {
	a := f.Args()
	a.Short()
	name, passive := string(a.ShortStr()), a.Bit()
	if !c.server.known(name, passive) {
		e := &frame.ChannelError{Code: frame.NotFound, Text: "no queue '" + name + "'", Method: frame.QueueDeclare}
		c.out = frame.AppendChannelClose(c.out, ch.number, e)
		c.closeChannel(ch)
		return
	}
	if (shape{true, 1, 5}).silent(f) {
		return
	}
	if name == "" {
		ch.tags++
		name = fmt.Sprintf("amq.gen-%d-%d", ch.number, ch.tags)
	}
	c.out = frame.Build(c.out, ch.number, frame.QueueDeclareOk).ShortStr(name).Long(0).Long(0).End()
}
