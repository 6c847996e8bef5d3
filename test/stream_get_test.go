package test

import (
	"fmt"
	"slices"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// fillShards publishes, past the proxy, count messages to each shard: "SHARD-N".
func (l *streamLab) fillShards(t *testing.T, v string, counts ...int) {
	t.Helper()
	var messages []streamMessage
	for i, count := range counts {
		for n := range count {
			key := "amqproxy:" + streamShard(v, i)
			messages = append(messages, streamMessage{v, key, amqp.Publishing{Body: fmt.Appendf(nil, "%d-%d", i, n)}})
		}
	}
	streamPublish(t, declareConfirming(t, l.direct(t)), messages...)
}

// TestStreamGet: basic.get goes round the shards, and says that there is nothing
// only when all are empty.
func TestStreamGet(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"get": "{shards-per-node: 4}"})
	t.Run("rotates", func(t *testing.T) {
		l.declare(t, "get.rotate")
		l.fillShards(t, "get.rotate", 5, 5, 5, 5)
		ch := l.channel(t)
		for round := range 5 {
			got := streamGetRound(t, ch, "get.rotate", 4)
			if want := []string{"0-", "1-", "2-", "3-"}; !slices.Equal(got, want) {
				t.Errorf("round %d of four gets reached the shards %v, want %v", round, got, want)
			}
		}
		if d, ok, err := ch.Get("get.rotate", true); ok || err != nil {
			t.Errorf("got %q, %v of an empty stream, want nothing", d.Body, err)
		}
	})
	for name, counts := range map[string][]int{
		"only the first": {3, 0, 0, 0}, "only the last": {0, 0, 0, 3}, "two": {0, 7, 0, 2}, "uneven": {1, 20, 3, 0}, "none": {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v, want := "get."+name, 0
			for _, n := range counts {
				want += n
			}
			l.declare(t, v)
			l.fillShards(t, v, counts...)
			ch := l.channel(t)
			for i := range want { // each get finds one, whatever the shard it begins with
				if _, ok, err := ch.Get(v, true); !ok || err != nil {
					t.Fatalf("get %d of %d: %v, %v; want a message", i, want, ok, err)
				}
			}
			for range 5 {
				if d, ok, err := ch.Get(v, true); ok || err != nil {
					t.Fatalf("got %q, %v; want nothing after %d messages", d.Body, err, want)
				}
			}
		})
	}
	t.Run("every shard from connections of one get each", func(t *testing.T) {
		l.declare(t, "get.short")
		l.fillShards(t, "get.short", 1, 1, 1, 1)
		for range 4 {
			if _, ok, err := l.channel(t).Get("get.short", true); !ok || err != nil {
				t.Fatalf("get: %v, %v; want a message", ok, err)
			}
		}
	})
}

// streamGetRound gets count messages and gives the first two octets of their
// bodies, sorted.
func streamGetRound(t *testing.T, ch *amqp.Channel, v string, count int) []string {
	t.Helper()
	var out []string
	for range count {
		d, ok, err := ch.Get(v, true)
		if err != nil || !ok {
			t.Fatalf("get: %v, %v; want a message", ok, err)
		}
		out = append(out, string(d.Body[:2]))
	}
	slices.Sort(out)
	return out
}

// TestStreamGetShows: what a consumer that gets sees, acks and gives back.
func TestStreamGetShows(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"get": "{shards-per-node: 2}"})
	const v = "get.a"
	l.declare(t, v)
	l.publish(t, streamMessage{v, "the publisher's key", amqp.Publishing{Headers: amqp.Table{"a": "b"}, Body: []byte("body")}})
	ch := l.channel(t)
	d, ok, err := ch.Get(v, false)
	if err != nil || !ok || d.Exchange != v || d.RoutingKey != "the publisher's key" || string(d.Body) != "body" || d.Redelivered || len(d.Headers) != 1 {
		t.Fatalf("got %+v, %v, %v; want the message as it was published to %s", d, ok, err, v)
	}
	if _, ok, err := ch.Get(v, false); ok || err != nil {
		t.Errorf("got a message (%v) that is not acked yet", err)
	}
	streamMust(t, d.Nack(false, true))
	d, ok, err = ch.Get(v, false)
	if err != nil || !ok || !d.Redelivered {
		t.Fatalf("after a nack: %+v, %v, %v; want it redelivered", d, ok, err)
	}
	streamMust(t, d.Ack(false))
	streamMust(t, ch.Close())
	if n, _ := l.shards(t, v, 2); n[0]+n[1] != 0 {
		t.Errorf("after an ack the shards hold %v, want nothing", n)
	}
}

// TestStreamGetInOneWrite: gets and other methods keep their order.
func TestStreamGetInOneWrite(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"get": "{shards-per-node: 3}"})
	const v = "get.a"
	l.declare(t, v)
	l.fillShards(t, v, 0, 2, 0)
	w := l.wire(t, 131072)
	get := fmt.Sprintf("1 basic.get queue=%q no-ack", v)
	w.send(get, "1 basic.qos prefetch-count=1", get, get, "1 basic.qos prefetch-count=2", get)
	w.want("1 basic.get-ok")
	w.next()
	w.next()
	w.want("1 basic.qos-ok")
	w.want("1 basic.get-ok")
	w.next()
	w.next()
	w.want("1 basic.get-empty")
	w.want("1 basic.qos-ok")
	w.want("1 basic.get-empty")
}

// TestStreamLastDeclared: the empty queue name is the one that was declared last
// on the channel, a virtual queue too.
func TestStreamLastDeclared(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"last": "{shards-per-node: 2}", "answer": "{shards-per-node: 2, queue-declare: answer}"})
	declares := map[string]func(*amqp.Channel, string) error{
		"last.a": func(ch *amqp.Channel, v string) error {
			_, err := ch.QueueDeclarePassive(v, true, false, false, false, nil)
			return err
		},
		"answer.a": func(ch *amqp.Channel, v string) error {
			_, err := ch.QueueDeclare(v, true, false, false, false, nil)
			return err
		},
	}
	for v, declare := range declares {
		t.Run(v, func(t *testing.T) {
			l.declare(t, v)
			ch := l.channel(t)
			streamMust(t, declare(ch, v))
			for _, key := range streamKeys("k", 8) {
				l.publish(t, streamKeyed(v, key)...)
				if d, ok, err := ch.Get("", true); err != nil || !ok || d.RoutingKey != key {
					t.Fatalf("get(\"\"): %q, %v, %v; want the message with key %s", d.RoutingKey, ok, err, key)
				}
			}
			// Another declare takes over, and gives back.
			q, err := ch.QueueDeclare("", false, true, true, false, nil)
			streamMust(t, err)
			streamPublish(t, declareConfirming(t, l.channel(t)), streamMessage{"", q.Name, amqp.Publishing{Body: []byte("ordinary")}})
			if d, ok, err := ch.Get("", true); err != nil || !ok || string(d.Body) != "ordinary" {
				t.Errorf("get(\"\") after a declare of %s: %q, %v, %v", q.Name, d.Body, ok, err)
			}
			streamMust(t, declare(ch, v))
			for _, tag := range []string{"a", "b"} {
				streamConsume(t, ch, "", tag)
			}
			l.wantConsumers(t, v, 1, 1)
		})
	}
}

// TestStreamEmptyNameRefused: the empty name that means a virtual queue is refused
// where the virtual queue's own name is.
func TestStreamEmptyNameRefused(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"last": "{}"})
	const v = "last.a"
	l.declare(t, v)
	conn := l.dial(t)
	for name, do := range map[string]func(*amqp.Channel) error{
		"queue.bind":   func(ch *amqp.Channel) error { return ch.QueueBind("", "k", "amq.direct", false, nil) },
		"queue.unbind": func(ch *amqp.Channel) error { return ch.QueueUnbind("", "k", "amq.direct", nil) },
		"queue.purge":  func(ch *amqp.Channel) error { _, err := ch.QueuePurge("", false); return err },
		"queue.delete": func(ch *amqp.Channel) error { _, err := ch.QueueDelete("", false, false, false); return err },
	} {
		t.Run(name, func(t *testing.T) {
			ch := streamOpen(t, conn)
			_, err := ch.QueueDeclarePassive(v, true, false, false, false, nil)
			streamMust(t, err)
			streamWantError(t, do(ch), amqp.PreconditionFailed, name, v)
		})
	}
}
