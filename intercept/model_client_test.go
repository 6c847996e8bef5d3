package intercept

import (
	"fmt"
	"slices"
	"strings"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

// modelClient keeps to the protocol, and pipelines all that it may.
type modelClient struct {
	t        *rapid.T
	hasty    bool // takes the broker's close for an answer to its own, as some clients do
	reads    bool // does little else
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
	clientDeliveries
}

type question struct{ method, answer string }

// asked is what a client may do on an open channel: the methods, and the answer.
var asked = []question{
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
	{`queue.delete queue="shard.s1"`, "queue.delete-ok"}, // refused
	{`basic.ack delivery-tag=99`, ""},                    // refused by the broker
	{`basic.get queue="shard.s1"`, "basic.get"},
	{`basic.get queue="shard.s2"`, "basic.get"},
	{`basic.get queue="q"`, "basic.get"},
	{`basic.get queue="shard.s1" no-ack=1`, "basic.get no-ack"},
	{`basic.get queue="stream: shard.s1 - n1 - 2"`, "basic.get"},
	{`basic.get queue="stream: shard.s1 - n2 - 2"`, "basic.get"},
	{`basic.get queue="stream: shard.s1 - n2 - 2" no-ack=1`, "basic.get no-ack"},
	{`basic.consume queue="shard.s1" consumer-tag="v-TAG"`, "basic.consume-ok"},
	{`basic.consume queue="shard.s1" consumer-tag="v-TAG" nowait`, ""},
	{`basic.consume queue="shard.s1" consumer-tag="v-TAG"`, "basic.consume-ok"},
	{`basic.consume queue="shard.s1" consumer-tag="vnTAG" no-ack=1`, "basic.consume-ok"},
	{`basic.consume queue="shard.s1" consumer-tag="vxTAG" exclusive=1`, "basic.consume-ok"},
	{`basic.consume queue="shard.s2" consumer-tag="w-TAG" nowait`, ""},
	{`basic.consume queue="stream: shard.s1 - n1 - 3" consumer-tag="s-TAG"`, "basic.consume-ok"},
	{`basic.consume queue="stream: shard.s1 - n2 - 2" consumer-tag="s-TAG" nowait`, ""},
	{`basic.consume queue="stream: shard.s1 - n2 - 2" consumer-tag="snTAG" no-ack=1`, "basic.consume-ok"},
	{`basic.consume queue="q" consumer-tag="o-TAG"`, "basic.consume-ok"},
	{`basic.cancel consumer-tag="TAG"`, "basic.cancel-ok"},
	{`basic.cancel consumer-tag="TAG"`, "basic.cancel-ok"},
	{`basic.cancel consumer-tag="TAG" nowait`, ""},
	{`basic.recover requeue=1`, "basic.recover-ok"},
	{`basic.recover-async requeue=1`, ""},
	{`tx.select`, "tx.select-ok"},
	{`tx.commit`, "tx.commit-ok"},
	{`tx.rollback`, "tx.rollback-ok"},
	{`basic.qos`, "basic.qos-ok"},
	{`channel.close reply-code=200`, ""},
}

// reading are those of them with which a client reads.
var reading = asked[slices.IndexFunc(asked, func(a question) bool { return strings.HasPrefix(a.method, "basic.get") }):]

var exchanges = []string{"shard.s1", "shard.s1", "shard.s2", "shard.s3", "shard.n", "logs", "nope", "default"}

// act gives what the client sends next on one of its channels.
func (c *modelClient) act() []frame.Frame {
	n := rapid.IntRange(1, modelChannels-1).Draw(c.t, "channel")
	ch := &c.channels[n]
	switch {
	case ch.state == modelClosing:
		return nil
	case ch.state == modelClosed:
		*ch = clientChannel{state: modelOpen, late: ch.late, answers: []string{"channel.open-ok"}, due: map[int]bool{}, refused: -1,
			clientDeliveries: clientDeliveries{live: map[string]bool{}, lives: map[string]int{}, unsure: map[string]bool{}}}
		return []frame.Frame{text("%d channel.open", n)}
	case len(ch.rest) == 0 && rapid.Bool().Draw(c.t, "publish") && (!c.reads || rapid.IntRange(0, 3).Draw(c.t, "really") == 0):
		c.publish(ch, n)
	case len(ch.rest) == 0 && len(ch.unacked) > 0 && ch.recovering == 0 && rapid.Bool().Draw(c.t, "acknowledge"):
		return []frame.Frame{ch.acknowledge(c.t, n)}
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
	from := asked
	if c.reads {
		from = reading
	}
	what := rapid.SampledFrom(from).Draw(c.t, "method")
	if strings.HasPrefix(what.method, "tx.") && what.method != "tx.select" && !ch.tx {
		what = asked[0]
	}
	tag := ""
	method := what.method
	if head, tail, has := strings.Cut(method, "TAG"); has {
		head, kind, _ := strings.Cut(head, `consumer-tag="`)
		tag = ch.tag(c.t, text("%d %s", n, method).Method(), kind, c.serial)
		method = head + `consumer-tag="` + tag + tail
	}
	f := text("%d %s", n, method)
	ch.asks(f, tag)
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
	if what.answer == "basic.cancel-ok" {
		what.answer += " " + tag
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
	case m == frame.BasicDeliver || m == frame.BasicCancel:
		ch.gets(c.t, f, "")
	default:
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
	if len(ch.answers) == 0 {
		c.t.Fatalf("%v, and nothing is due", f)
	}
	what, tag, _ := strings.Cut(ch.answers[0], " ")
	a := f.Args()
	if !strings.HasPrefix(f.Method().String(), what) || what == "basic.cancel-ok" && string(a.ShortStr()) != tag {
		c.t.Fatalf("%v, and due are %v", f, ch.answers)
	}
	ch.gets(c.t, f, ch.answers[0])
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
