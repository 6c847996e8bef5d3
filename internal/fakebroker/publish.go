package fakebroker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"amqproxy/frame"
)

// maxMessage is RabbitMQ's limit for a message.
const maxMessage = 128 << 20

// publication is a basic.publish of which not all frames have come.
type publication struct {
	exchange, key        string
	mandatory, immediate bool
	expects              byte // the type of the next frame; 0 for a method
	header               frame.Frame
	body                 []byte
	left                 int64 // octets of the body that are still to come; below 0 it never ends
}

// publish begins a message.
func (ch *channel) publish(a *frame.Args) error {
	a.Short()
	ch.publication = publication{exchange: string(a.ShortStr()), key: string(a.ShortStr()),
		mandatory: a.Bit(), immediate: a.Bit(), expects: frame.TypeHeader}
	return nil
}

// expectMethod refuses a method within a content.
func (ch *channel) expectMethod(m frame.Method) error {
	text := "expected content header for class 60, got non content header frame instead"
	switch ch.expects {
	case 0:
		return nil
	case frame.TypeBody:
		text = "expected content body, got non content body frame instead"
	}
	return &frame.ConnError{Code: frame.UnexpectedFrame, Method: frame.BasicPublish, Text: text}
}

// content takes a header or body frame.
func (ch *channel) content(f frame.Frame) error {
	if ch.expects == 0 {
		return &frame.ConnError{Code: frame.UnexpectedFrame, Text: "expected method frame, got non method frame instead"}
	}
	if f.Type() != ch.expects {
		return ch.expectMethod(0)
	}
	if f.Type() == frame.TypeHeader {
		size, ok := frame.BodySize(f)
		if !ok {
			return &frame.ConnError{Code: frame.FrameError, Text: "a header frame that is too short"}
		}
		if class := binary.BigEndian.Uint16(f.Payload()); class != 60 {
			return &frame.ConnError{Code: frame.UnexpectedFrame, Method: frame.BasicPublish,
				Text: fmt.Sprintf("expected content header for class 60, got one for class %d instead", class)}
		}
		ch.header, ch.left, ch.expects = bytes.Clone(f), int64(min(size, 1<<62)), frame.TypeBody
	} else {
		ch.body = append(ch.body, f.Payload()...)
		ch.left -= int64(len(f.Payload()))
	}
	if ch.left != 0 {
		if len(ch.body) > maxMessage {
			return refuse(frame.PreconditionFailed, "message size %d is larger than configured max size %d", len(ch.body), maxMessage)
		}
		return nil
	}
	p := ch.publication
	ch.publication = publication{}
	return ch.published(p)
}

// published takes a whole message.
func (ch *channel) published(p publication) error {
	if p.immediate {
		return &frame.ConnError{Code: frame.NotImplemented, Text: "immediate=true", Method: frame.BasicPublish}
	}
	x, err := ch.conn.vhost.exchange(p.exchange)
	if err != nil {
		return err
	}
	if x.internal {
		return refuse(frame.AccessRefused, "cannot publish to internal %s", ch.conn.vhost.called("exchange", x.name))
	}
	m, err := newMessage(p.exchange, p.key, p.header, p.body, ch.conn.user)
	if err != nil {
		return err
	}
	if ch.tx != nil {
		ch.tx.published = append(ch.tx.published, func(now time.Time) { ch.route(m, p.mandatory, now) })
		return nil
	}
	ch.route(m, p.mandatory, time.Now())
	return nil
}

// route stores a message, or returns it, and confirms it.
func (ch *channel) route(m *message, mandatory bool, now time.Time) {
	v := ch.conn.vhost
	verdict := v.control.judge(ch.confirming, mandatory)
	routed, taken := true, true
	if x := v.exchanges[m.exchange]; x == nil || verdict.unroutable {
		routed = false
	} else if !verdict.drop {
		routed, taken = v.publish(x, m, now)
	}
	if mandatory && !routed {
		ch.conn.out.add(func(dst []byte) []byte {
			dst = frame.Build(dst, ch.number, frame.BasicReturn).Short(frame.NoRoute).ShortStr("NO_ROUTE").
				ShortStr(m.exchange).ShortStr(m.keys[0]).End()
			return m.appendTo(dst, ch)
		})
	}
	if ch.confirming {
		ch.confirm(taken && !verdict.nack, now)
	}
}
