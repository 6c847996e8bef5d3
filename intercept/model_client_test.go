package intercept

import (
	"fmt"
	"strings"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

// modelClient keeps to the protocol, and pipelines all that it may.
type modelClient struct {
	t        *rapid.T
	hasty    bool // takes the broker's close for an answer to its own, as some clients do
	serial   int
	channels [modelChannels]clientChannel
}

type clientChannel struct {
	state    modelState
	rest     []frame.Frame // of a message that is being sent
	down     assembler
	answers  []string // that are due, in order
	sent     int      // messages
	confirms bool
	tags     int
	due      map[int]bool // tags that are not confirmed
	refused  int          // tags that were sent before a method that is refused; -1 if none was
	late     int          // close-oks that a hasty client does not wait for
}

// asked is what a client may do on an open channel: the methods, and the answer.
var asked = []struct{ method, answer string }{
	{`basic.qos`, "basic.qos-ok"},
	{`confirm.select`, "confirm.select-ok"},
	{`confirm.select nowait`, ""},
	{`queue.declare queue="q"`, "queue.declare-ok"},
	{`queue.declare queue="q" nowait`, ""},
	{`queue.declare queue="shard.s1" passive`, "queue.declare-ok"},
	{`queue.declare queue="shard.s1" durable`, "queue.declare-ok"},
	{`queue.purge queue="shard.s1"`, "queue.purge-ok"},
	{`queue.purge`, "queue.purge-ok"},
	{`queue.bind queue="q" exchange="shard.n"`, "queue.bind-ok"},
	{`exchange.declare exchange="shard.s1" type="topic"`, "exchange.declare-ok"},
	{`exchange.declare exchange="shard.s3" type="topic" nowait`, ""},
	{`exchange.declare exchange="logs" type="fanout"`, "exchange.declare-ok"},
	{`basic.get queue="shard.s1"`, "basic.get"},
	{`basic.get queue="shard.s2"`, "basic.get"},
	{`basic.get queue="q"`, "basic.get"},
	{`basic.consume queue="shard.s1" consumer-tag="TAG"`, "basic.consume-ok"},
	{`basic.consume queue="shard.s2" consumer-tag="TAG" nowait`, ""},
	{`basic.consume queue="q" consumer-tag="TAG"`, "basic.consume-ok"},
	{`basic.cancel consumer-tag="TAG"`, "basic.cancel-ok"},
	{`queue.delete queue="shard.s1"`, "queue.delete-ok"}, // refused
	{`basic.ack delivery-tag=99`, ""},                    // refused by the broker
	{`channel.close reply-code=200`, ""},
}

var exchanges = []string{"shard.s1", "shard.s1", "shard.s2", "shard.s3", "shard.n", "logs", "nope", "default"}

// act gives what the client sends next on one of its channels.
func (c *modelClient) act() []frame.Frame {
	n := rapid.IntRange(1, modelChannels-1).Draw(c.t, "channel")
	ch := &c.channels[n]
	switch {
	case ch.state == modelClosing:
		return nil
	case ch.state == modelClosed:
		*ch = clientChannel{state: modelOpen, late: ch.late, answers: []string{"channel.open-ok"}, due: map[int]bool{}, refused: -1}
		return []frame.Frame{text("%d channel.open", n)}
	case len(ch.rest) == 0 && rapid.Bool().Draw(c.t, "publish"):
		c.publish(ch, n)
	case len(ch.rest) == 0:
		return c.ask(ch, n)
	}
	f := ch.rest[0]
	ch.rest = ch.rest[1:]
	return []frame.Frame{f}
}

func (c *modelClient) publish(ch *clientChannel, n int) {
	ch.sent++
	if ch.confirms {
		ch.tags++
		ch.due[ch.tags] = true
	}
	exchange := rapid.SampledFrom(exchanges).Draw(c.t, "exchange")
	method, means := fmt.Sprintf(`%d basic.publish exchange=%q routing-key="k"`, n, exchange), exchange
	if exchange == "default" { // the stream's name as the key
		method, means = fmt.Sprintf(`%d basic.publish routing-key="shard.s1"`, n), "shard.s1"
	}
	ch.rest = message(c.t, fmt.Sprintf(`message-id="%s %d"`, means, ch.sent), "%s", method)
}

func (c *modelClient) ask(ch *clientChannel, n int) []frame.Frame {
	c.serial++
	tag := c.serial
	what := rapid.SampledFrom(asked).Draw(c.t, "method")
	if strings.HasPrefix(what.method, "basic.cancel") {
		tag = rapid.IntRange(1, c.serial).Draw(c.t, "tag")
	}
	f := text("%d %s", n, strings.ReplaceAll(what.method, "TAG", fmt.Sprint(tag)))
	switch f.Method() {
	case frame.ChannelClose:
		ch.state = modelClosing
	case frame.ConfirmSelect:
		ch.confirms = true
	case frame.QueueDelete:
		if ch.refused < 0 {
			ch.refused = ch.tags
		}
	}
	if what.answer != "" {
		ch.answers = append(ch.answers, what.answer)
	}
	return []frame.Frame{f}
}

// take gives what the client sends for a frame.
func (c *modelClient) take(f frame.Frame) []frame.Frame {
	n := f.Channel()
	ch := &c.channels[n]
	m := f.Method()
	ch.down.take(c.t, f)
	switch {
	case m == frame.ChannelCloseOk && f.Type() == frame.TypeMethod:
		c.closeOk(ch, f)
	case m == frame.ChannelClose && f.Type() == frame.TypeMethod:
		return c.closed(ch, n, f)
	case ch.state == modelClosing: // all else is dropped
	case ch.state == modelClosed:
		c.t.Fatalf("%v on a channel that is closed", f)
	case f.Type() != frame.TypeMethod:
	case m == frame.BasicAck || m == frame.BasicNack:
		c.confirmed(ch, f)
	case m != frame.BasicDeliver:
		c.answered(ch, f)
	}
	return nil
}

func (c *modelClient) closeOk(ch *clientChannel, f frame.Frame) {
	switch {
	case ch.late > 0:
		ch.late--
	case ch.state == modelClosing:
		ch.state = modelClosed
	default:
		c.t.Fatalf("%v, and nothing was closed", f)
	}
}

// closed takes a channel.close. What the client has begun to send it sends first.
func (c *modelClient) closed(ch *clientChannel, n uint16, f frame.Frame) []frame.Frame {
	a := f.Args()
	a.Short()
	words := string(a.ShortStr())
	if ch.state == modelOpen && strings.Contains(words, "can't be used") {
		for tag := range ch.due {
			if tag <= ch.refused {
				c.t.Fatalf("%v, and message %d of %d is not confirmed", f, tag, ch.refused)
			}
		}
	}
	switch {
	case ch.state == modelClosing && c.hasty:
		ch.late++
		ch.state = modelClosed
	case ch.state == modelOpen:
		ch.state = modelClosed
	case ch.state == modelClosed:
		c.t.Fatalf("%v on a channel that is closed", f)
	}
	frames := append(ch.rest, text("%d channel.close-ok", n))
	ch.rest, ch.answers = nil, nil
	return frames
}

func (c *modelClient) confirmed(ch *clientChannel, f frame.Frame) {
	a := f.Args()
	tag, multiple := int(a.LongLong()), a.Bit()
	for t := range ch.due {
		if t == tag || multiple && t < tag {
			delete(ch.due, t)
		}
	}
}

func (c *modelClient) answered(ch *clientChannel, f frame.Frame) {
	if len(ch.answers) == 0 || !strings.HasPrefix(f.Method().String(), ch.answers[0]) {
		c.t.Fatalf("%v, and due are %v", f, ch.answers)
	}
	ch.answers = ch.answers[1:]
}

// complete is the rest of every message that was begun.
func (c *modelClient) complete() (frames []frame.Frame) {
	for n := range c.channels {
		frames = append(frames, c.channels[n].rest...)
		c.channels[n].rest = nil
	}
	return frames
}

// closeAll closes what is open.
func (c *modelClient) closeAll() (frames []frame.Frame) {
	for n := range c.channels {
		if ch := &c.channels[n]; ch.state == modelOpen {
			frames = append(frames, text("%d channel.close reply-code=200", n))
			ch.state = modelClosing
		}
	}
	return frames
}

// waitsForNothing: every answer is here, and every confirm.
func (c *modelClient) waitsForNothing() {
	for n, ch := range c.channels {
		if ch.state == modelClosing || ch.late > 0 || ch.state == modelOpen && len(ch.answers)+len(ch.due) > 0 {
			c.t.Fatalf("channel %d is %s and waits for %v, confirms of %v, and %d late close-oks", n, ch.state, ch.answers, ch.due, ch.late)
		}
	}
}
