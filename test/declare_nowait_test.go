package test

import (
	"bytes"
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// TestDeclareNowaitThenPublish: what comes in the same packet as the declare waits
// for the shards, on this channel only.
func TestDeclareNowaitThenPublish(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"now": "{shards-per-node: 3}"})
	const count = 300
	for _, c := range []struct{ name, declare, confirm string }{
		{"nowait", "nowait", ""},
		{"nowait and confirms", "nowait", "1 confirm.select nowait"},
		{"with an answer", "", "1 confirm.select nowait"},
		{"confirms with an answer", "nowait", "1 confirm.select"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := "now." + c.name
			lines := []string{fmt.Sprintf("1 exchange.declare exchange=%q type=\"topic\" durable %s", v, c.declare)}
			if c.confirm != "" {
				lines = append(lines, c.confirm)
			}
			for i := range count {
				lines = append(lines, streamPublishLines(v, fmt.Sprint("k", i), fmt.Sprint(i))...)
			}
			w := l.wire(t, 131072)
			w.send(lines...)
			if c.declare == "" {
				w.wantMethod(frame.ExchangeDeclareOk)
			}
			if c.confirm == "1 confirm.select" {
				w.wantMethod(frame.ConfirmSelectOk)
			}
			if c.confirm != "" {
				w.wantAcks(1, count)
			}
			// An answer on the channel: all before it has reached the broker.
			w.send("1 basic.qos prefetch-count=1")
			w.wantMethod(frame.BasicQosOk)
			found := map[string]int{}
			daemon.Eventually(t, streamPatience, func() error {
				for body, shard := range l.drainShards(t, v, 3) {
					found[body] = shard
				}
				if len(found) != count {
					return fmt.Errorf("the shards held %d of %d messages", len(found), count)
				}
				return nil
			})
		})
	}
}

// TestDeclareNowaitThenMuch: more than anybody would hold, while the shards are
// being made.
func TestDeclareNowaitThenMuch(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"much": "{shards-per-node: 3}"})
	const v, count, size = "much.a", 30, 1 << 20
	ch := declareConfirming(t, l.channel(t))
	if err := ch.ExchangeDeclare(v, "topic", true, false, false, true, nil); err != nil {
		t.Fatal(err)
	}
	var messages []streamMessage
	for i := range count {
		body := bytes.Repeat([]byte{byte(i)}, size)
		messages = append(messages, streamMessage{v, fmt.Sprint("k", i), amqp.Publishing{Body: body}})
	}
	streamPublish(t, ch, messages...)
	seen := map[byte]bool{}
	for _, d := range streamDrain(t, l.channel(t), v) {
		if len(d.Body) != size {
			t.Fatalf("a message has %d octets, want %d", len(d.Body), size)
		}
		seen[d.Body[0]] = true
	}
	if len(seen) != count {
		t.Errorf("%d different messages came, want %d", len(seen), count)
	}
}

// TestDeclareNowaitHoldsOneChannel: other channels go on, and what was asked
// before the declare is answered before it.
func TestDeclareNowaitHoldsOneChannel(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"now": "{shards-per-node: 3}"})
	w := l.wire(t, 131072)
	w.open(2)
	w.send(`1 basic.qos prefetch-count=5`,
		`1 exchange.declare exchange="now.a" type="topic" durable`,
		`1 basic.consume queue="now.a" consumer-tag="c" no-ack`,
		`2 queue.declare queue="ordinary" durable`)
	var first []frame.Method
	for range 4 {
		f := w.next()
		if f.Channel() == 1 {
			first = append(first, f.Method())
		} else if f.Method() != frame.QueueDeclareOk {
			t.Errorf("channel 2 got %s, want %s", f, frame.QueueDeclareOk)
		}
	}
	want := []frame.Method{frame.BasicQosOk, frame.ExchangeDeclareOk, frame.BasicConsumeOk}
	if fmt.Sprint(first) != fmt.Sprint(want) {
		t.Errorf("channel 1 got %v, want %v", first, want)
	}
}

// TestDeclareNowaitRefused: nowait hides no refusal, and what follows is swallowed
// until the client's close-ok.
func TestDeclareNowaitRefused(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"now": "{}"})
	w := l.wire(t, 131072)
	w.open(2)
	lines := append([]string{`1 exchange.declare exchange="now.bad" type="fanout" durable nowait`},
		streamPublishLines("now.bad", "k", "swallowed")...)
	w.send(append(lines, `2 basic.qos prefetch-count=1`)...)
	for range 2 {
		switch f := w.next(); f.Channel() {
		case 1:
			if f.Method() != frame.ChannelClose {
				t.Errorf("got %s, want channel.close", f)
			}
			a := f.Args()
			if code := a.Short(); code != frame.PreconditionFailed {
				t.Errorf("got %s, want 406", f)
			}
		default:
			if f.Method() != frame.BasicQosOk {
				t.Errorf("channel 2 got %s, want basic.qos-ok", f)
			}
		}
	}
	w.send(append(streamPublishLines("now.bad", "k", "swallowed"), "1 channel.close-ok", "1 channel.open")...)
	w.want("1 channel.open-ok")
}

func TestDeclarePassive(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"passive": "{shards-per-node: 2}"})
	l.declare(t, "passive.a")
	conn := l.dial(t)
	passive := func(ch *amqp.Channel, v, kind string) error {
		return ch.ExchangeDeclarePassive(v, kind, true, false, false, false, nil)
	}
	ch := streamOpen(t, conn)
	for _, kind := range []string{"x-consistent-hash", "direct", "topic"} { // the broker looks at the name only
		if err := passive(ch, "passive.a", kind); err != nil {
			t.Errorf("passive declare of a stream as %s: %v", kind, err)
		}
	}
	streamWantError(t, passive(ch, "passive.unknown", "direct"), amqp.NotFound, "no exchange 'passive.unknown'")
	streamLives(t, streamOpen(t, conn))
	if !l.shardsGone(t, "passive.unknown", 1) {
		t.Error("a passive declare of an unknown name made a shard")
	}
	if err := passive(streamOpen(t, conn), "amq.topic", "topic"); err != nil {
		t.Errorf("passive declare of an ordinary exchange: %v", err)
	}
}
