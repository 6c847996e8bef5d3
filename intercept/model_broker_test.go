package intercept

import (
	"fmt"
	"slices"
	"strings"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

const modelChannels = 3 // channel 0, and two to use

// modelState is a channel's, on either side.
type modelState string

const (
	modelClosed  modelState = ""
	modelOpen    modelState = "open"
	modelClosing modelState = "closing"
)

// assembler puts methods and their contents together, as strictly as RabbitMQ.
type assembler struct {
	busy           bool
	method, header frame.Frame
	due            int // octets of the body
}

// take tells whether the method is complete; it fails where RabbitMQ would end the
// connection with UNEXPECTED_FRAME.
func (a *assembler) take(t *rapid.T, f frame.Frame) bool {
	switch {
	case f.Type() == frame.TypeMethod && !a.busy:
		*a = assembler{busy: f.Method().HasContent(), method: f}
	case f.Type() == frame.TypeHeader && a.busy && a.header == nil:
		size, _ := frame.BodySize(f)
		a.header, a.due, a.busy = f, int(size), size > 0
	case f.Type() == frame.TypeBody && a.busy && a.due >= len(f.Payload()):
		a.due -= len(f.Payload())
		a.busy = a.due > 0
	default:
		t.Fatalf("unexpected frame %v behind %v and %v, with %d octets due", f, a.method, a.header, a.due)
	}
	return !a.busy
}

// message is a method that has content, with one.
func message(t *rapid.T, properties, format string, args ...any) []frame.Frame {
	method := text(format, args...)
	bodies := rapid.IntRange(0, 2).Draw(t, "bodies")
	frames := []frame.Frame{method, text("%d header body-size=%d %s", method.Channel(), 3*bodies, properties)}
	for range bodies {
		frames = append(frames, text(`%d body "abc"`, method.Channel()))
	}
	return frames
}

// modelBroker is RabbitMQ as far as it minds what it gets.
type modelBroker struct {
	t        *rapid.T
	channels [modelChannels]brokerChannel
	gone     map[string]bool // queues that were deleted
}

type brokerChannel struct {
	state     modelState
	up        assembler
	confirms  bool
	published int
	due       []int // tags that are not confirmed yet
	last      int   // number of the last message
	modelDeliveries
}

// take gives what the broker sends for a frame.
func (b *modelBroker) take(f frame.Frame) []frame.Frame {
	n := f.Channel()
	ch := &b.channels[n]
	if ch.state == modelClosed {
		if f.Method() != frame.ChannelOpen {
			b.t.Fatalf("%v on a channel that is closed", f)
		}
		*ch = brokerChannel{state: modelOpen}
		return []frame.Frame{text("%d channel.open-ok", n)}
	}
	switch m := f.Method(); {
	case !ch.up.take(b.t, f):
	case ch.up.header != nil:
		return b.published(ch, n)
	case m == frame.ChannelCloseOk && ch.state == modelClosing:
		ch.state = modelClosed
	case m == frame.ChannelClose:
		if ch.state == modelOpen {
			ch.state = modelClosed
		}
		ch.modelDeliveries = modelDeliveries{}
		return []frame.Frame{text("%d channel.close-ok", n)}
	case ch.state == modelOpen:
		return b.method(ch, n, f)
	}
	return nil
}

func (b *modelBroker) method(ch *brokerChannel, n uint16, f frame.Frame) []frame.Frame {
	switch f.Method() {
	case frame.BasicAck, frame.BasicNack, frame.BasicReject:
		if !ch.settle(f) {
			return b.fail(ch, n, frame.PreconditionFailed)
		}
		return nil
	case frame.BasicRecover, frame.BasicRecoverAsync:
		ch.unacked = nil
		if f.Method() == frame.BasicRecoverAsync {
			return nil
		}
	case frame.TxSelect, frame.ConfirmSelect:
		tx := f.Method() == frame.TxSelect
		if ch.confirms && tx || ch.tx && !tx {
			return b.fail(ch, n, frame.PreconditionFailed)
		}
		ch.confirms, ch.tx = !tx, tx
	case frame.TxCommit, frame.TxRollback:
		if !ch.tx {
			return b.fail(ch, n, frame.PreconditionFailed)
		}
		ch.end(f.Method() == frame.TxCommit)
	case frame.BasicGet:
		return b.get(ch, n, f)
	case frame.BasicConsume:
		if code := b.consume(ch, f); code != 0 {
			return b.fail(ch, n, code)
		}
	case frame.BasicCancel:
		a := f.Args()
		tag := string(a.ShortStr())
		ch.consumers = slices.DeleteFunc(ch.consumers, func(c brokerConsumer) bool { return c.tag == tag })
		if nowait(f) {
			return nil
		}
		return []frame.Frame{text("%d basic.cancel-ok consumer-tag=%q", n, tag)}
	case frame.ExchangeDeclare:
		if rapid.IntRange(0, 9).Draw(b.t, "refused") == 0 {
			return b.fail(ch, n, frame.AccessRefused)
		}
	}
	if !asks(f.Method()) {
		b.t.Fatalf("the broker has no answer to %v", f)
	}
	if nowait(f) {
		return nil
	}
	return []frame.Frame{frame.Build(nil, n, f.Method()+1).End()} // its fields are of no account here
}

func (b *modelBroker) fail(ch *brokerChannel, n uint16, code int) []frame.Frame {
	*ch = brokerChannel{state: modelClosing, up: ch.up}
	return []frame.Frame{text(`%d channel.close reply-code=%d reply-text="the broker says no"`, n, code)}
}

// published looks at a message whose id is the exchange that the client meant and
// a number. One for a stream has a shard's key, no other has, and none is missing.
func (b *modelBroker) published(ch *brokerChannel, n uint16) []frame.Frame {
	if ch.state == modelClosing {
		return nil
	}
	h, ok := frame.ParseHeader(ch.up.header)
	id, _, _ := h.Property(ch.up.header, frame.FlagMessageID)
	var exchange string
	var number int
	if _, err := fmt.Sscan(string(id), &exchange, &number); err != nil || !ok || number != ch.last+1 {
		b.t.Fatalf("%v %v: behind number %d", ch.up.method, ch.up.header, ch.last)
	}
	ch.last = number
	bcc, _, _ := h.Table.Find("BCC")
	has := strings.Contains(string(bcc.Value), "amqproxy:stream: "+exchange+" - ")
	if a := ch.up.method.Args(); a.Short() != 0 || has != strings.HasPrefix(exchange, "shard.s") || string(a.ShortStr()) != exchange {
		b.t.Fatalf("%v %v: a shard's key: %v", ch.up.method, ch.up.header, has)
	}
	if exchange == "nope" {
		return b.fail(ch, n, frame.NotFound)
	}
	if ch.confirms {
		ch.published++
		ch.due = append(ch.due, ch.published)
	}
	return nil
}

// toDo are the channels where the broker has something to say by itself.
func (b *modelBroker) toDo() (channels []int) {
	for n, ch := range b.channels {
		if ch.state == modelOpen && len(ch.due) > 0 {
			channels = append(channels, n)
		}
	}
	return channels
}

// act confirms: one that is due or all up to it; sometimes a delivery comes first.
func (b *modelBroker) act() (frames []frame.Frame) {
	n := rapid.SampledFrom(b.toDo()).Draw(b.t, "confirming channel")
	ch := &b.channels[n]
	if len(ch.consumers) > 0 && rapid.Bool().Draw(b.t, "delivery") {
		frames = b.deliver(ch, n)
	}
	i := rapid.IntRange(0, len(ch.due)-1).Draw(b.t, "tag")
	tag := ch.due[i]
	method := rapid.SampledFrom([]string{"basic.ack", "basic.nack"}).Draw(b.t, "confirm")
	if rapid.Bool().Draw(b.t, "multiple") {
		ch.due = ch.due[i+1:]
		return append(frames, text("%d %s delivery-tag=%d multiple=1", n, method, tag))
	}
	ch.due = slices.Delete(slices.Clone(ch.due), i, i+1)
	return append(frames, text("%d %s delivery-tag=%d", n, method, tag))
}
