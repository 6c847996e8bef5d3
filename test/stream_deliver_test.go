package test

import (
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// TestStreamDeliveries: a consumer sees the exchange that was published to, the
// publisher's routing key and its own tag, whether it chose one or not.
func TestStreamDeliveries(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"show": "{}"})
	const v = "show.a"
	l.declare(t, v)
	for _, c := range []struct {
		tag   string
		noAck bool
	}{{"mine", true}, {"mine", false}, {"", true}, {"", false}, {strings.Repeat("t", 255), false}} {
		t.Run(fmt.Sprintf("tag %.5q, no-ack %v", c.tag, c.noAck), func(t *testing.T) {
			w := l.wire(t, 131072)
			w.send(fmt.Sprintf("1 basic.consume queue=%q consumer-tag=%q no-ack=%d", v, c.tag, map[bool]int{true: 1}[c.noAck]))
			ok := w.want("1 basic.consume-ok").Args()
			tag := string(ok.ShortStr())
			if c.tag == "" && !strings.HasPrefix(tag, "amq.ctag-") || c.tag != "" && tag != c.tag {
				t.Errorf("consume-ok has the tag %q, want %q", tag, c.tag)
			}
			l.publish(t, streamKeyed(v, "the publisher's key")...)
			method, _, body := w.content()
			a := method.Args()
			if gotTag, dtag, redelivered := string(a.ShortStr()), a.LongLong(), a.Bit(); gotTag != tag || dtag != 1 || redelivered {
				t.Errorf("delivery %d for %q, redelivered %v; want 1 for %q", dtag, gotTag, redelivered, tag)
			}
			if exchange, key := string(a.ShortStr()), string(a.ShortStr()); exchange != v || key != "the publisher's key" || string(body) != key {
				t.Errorf("exchange %q, key %q, body %q; want %s and the publisher's key", exchange, key, body, v)
			}
			if !c.noAck {
				w.send("1 basic.ack delivery-tag=1")
			}
			w.send(fmt.Sprintf("1 basic.cancel consumer-tag=%q", tag))
			w.want("1 basic.cancel-ok")
			w.send("1 channel.close reply-code=200")
			w.want("1 channel.close-ok")
			if n, consumers := l.shards(t, v, 1); n[0] != 0 || consumers[0] != 0 {
				t.Errorf("the shard has %d messages and %d consumers, want none", n[0], consumers[0])
			}
		})
	}
}

// TestStreamServerNamedTagsDiffer: as many as one likes on a channel.
func TestStreamServerNamedTagsDiffer(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"tags": "{shards-per-node: 2}"})
	l.declare(t, "tags.a")
	w, seen := l.wire(t, 131072), map[string]bool{}
	for range 10 {
		w.send(`1 basic.consume queue="tags.a"`)
		a := w.want("1 basic.consume-ok").Args()
		seen[string(a.ShortStr())] = true
	}
	if len(seen) != 10 {
		t.Errorf("10 consumers have %d different tags", len(seen))
	}
	l.wantConsumers(t, "tags.a", 5, 5)
}

// TestStreamSettling: acks, nacks and rejects over several shards on one channel.
func TestStreamSettling(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"ack": "{shards-per-node: 3}"})
	const v, count = "ack.a", 30
	l.declare(t, v)
	fill := func(t *testing.T) (*amqp.Channel, []amqp.Delivery) {
		l.publish(t, streamKeyed(v, streamKeys("k", count)...)...)
		ch := l.channel(t)
		return ch, streamTake(t, ch, v, 3, count)
	}
	cases := []struct {
		name   string
		settle func(ch *amqp.Channel, d []amqp.Delivery) error
		left   int // messages that come back
	}{
		{"ack each", func(ch *amqp.Channel, d []amqp.Delivery) error {
			return streamEach(d, func(d amqp.Delivery) error { return d.Ack(false) })
		}, 0},
		{"ack all", func(ch *amqp.Channel, d []amqp.Delivery) error { return ch.Ack(d[count-1].DeliveryTag, true) }, 0},
		{"ack all with tag 0", func(ch *amqp.Channel, d []amqp.Delivery) error { return ch.Ack(0, true) }, 0},
		{"ack the first ten", func(ch *amqp.Channel, d []amqp.Delivery) error { return ch.Ack(10, true) }, count - 10},
		{"reject", func(ch *amqp.Channel, d []amqp.Delivery) error {
			return streamEach(d, func(d amqp.Delivery) error { return d.Reject(false) })
		}, 0},
		{"nack all", func(ch *amqp.Channel, d []amqp.Delivery) error { return ch.Nack(count, true, false) }, 0},
		{"nothing", func(ch *amqp.Channel, d []amqp.Delivery) error { return nil }, count},
		{"ack every other one", func(ch *amqp.Channel, d []amqp.Delivery) error {
			return streamEach(d, func(d amqp.Delivery) error {
				if d.DeliveryTag%2 == 0 {
					return nil
				}
				return d.Ack(false)
			})
		}, count / 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ch, deliveries := fill(t)
			streamMust(t, c.settle(ch, deliveries))
			streamMust(t, ch.Close())
			got := streamDrain(t, l.direct(t), streamShard(v, 0))
			for i := 1; i < 3; i++ {
				got = append(got, streamDrain(t, l.direct(t), streamShard(v, i))...)
			}
			if len(got) != c.left {
				t.Errorf("after the channel's close %d messages are back, want %d", len(got), c.left)
			}
			for _, d := range got {
				if !d.Redelivered {
					t.Errorf("%q came back and is not marked as redelivered", d.Body)
				}
			}
		})
	}
}

func streamEach(deliveries []amqp.Delivery, do func(amqp.Delivery) error) error {
	for _, d := range deliveries {
		if err := do(d); err != nil {
			return err
		}
	}
	return nil
}

// streamTake consumes v with that many consumers on one channel and takes count
// messages, in the order of their delivery tags. They are not acked.
func streamTake(t *testing.T, ch *amqp.Channel, v string, consumers, count int) []amqp.Delivery {
	t.Helper()
	all := make(chan amqp.Delivery, count)
	for i := range consumers {
		from := streamConsume(t, ch, v, fmt.Sprint("take-", i))
		go func() { // ends with the channel
			for d := range from {
				all <- d
			}
		}()
	}
	out := make([]amqp.Delivery, count)
	for range count {
		d := streamNext(t, all, "delivery")
		if d.DeliveryTag < 1 || d.DeliveryTag > uint64(count) || out[d.DeliveryTag-1].DeliveryTag != 0 {
			t.Fatalf("delivery tag %d, want each of 1 to %d once", d.DeliveryTag, count)
		}
		out[d.DeliveryTag-1] = d
	}
	return out
}

// TestStreamRequeue: what goes back comes again to the same consumer.
func TestStreamRequeue(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"again": "{}"})
	const v, count = "again.a", 10
	l.declare(t, v)
	for name, requeue := range map[string]func(*amqp.Channel) error{
		"nack":    func(ch *amqp.Channel) error { return ch.Nack(count, true, true) },
		"reject":  func(ch *amqp.Channel) error { return streamRejectAll(ch, count) },
		"recover": func(ch *amqp.Channel) error { return ch.Recover(true) },
	} {
		t.Run(name, func(t *testing.T) {
			keys := streamKeys("k", count)
			l.publish(t, streamKeyed(v, keys...)...)
			ch := l.channel(t)
			from := streamConsume(t, ch, v, "c")
			for range count {
				streamNext(t, from, "delivery")
			}
			streamMust(t, requeue(ch))
			for i := range count {
				d := streamNext(t, from, "delivery again")
				if !d.Redelivered || string(d.Body) != keys[i] || d.ConsumerTag != "c" {
					t.Errorf("got %q, redelivered %v, for %q; want %q again", d.Body, d.Redelivered, d.ConsumerTag, keys[i])
				}
				streamMust(t, d.Ack(false))
			}
			streamMust(t, ch.Close())
			if n, _ := l.shards(t, v, 1); n[0] != 0 {
				t.Errorf("%d messages are left, want none", n[0])
			}
		})
	}
}

func streamRejectAll(ch *amqp.Channel, count uint64) error {
	for tag := uint64(1); tag <= count; tag++ {
		if err := ch.Reject(tag, true); err != nil {
			return err
		}
	}
	return nil
}

// TestStreamPrefetch: a consumer gets as many as it may hold, and then one for
// each that it acks.
func TestStreamPrefetch(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"qos": "{}"})
	const v, count, prefetch = "qos.a", 20, 4
	l.declare(t, v)
	l.publish(t, streamKeyed(v, streamKeys("k", count)...)...)
	ch := l.channel(t)
	streamMust(t, ch.Qos(prefetch, 0, false))
	from := streamConsume(t, ch, v, "")
	for i := range count {
		d := streamNext(t, from, "delivery")
		ready := max(0, count-prefetch-i)
		daemon.Eventually(t, streamPatience, func() error {
			if n, _ := l.shards(t, v, 1); n[0] != ready {
				return fmt.Errorf("with %d unacked and %d acked, %d messages are ready; want %d", prefetch, i, n[0], ready)
			}
			return nil
		})
		streamMust(t, d.Ack(false))
	}
}

// TestStreamLostConsumer: what a consumer held when its connection was lost comes
// to another one.
func TestStreamLostConsumer(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"lost": "{}"})
	const v = "lost.a"
	l.declare(t, v)
	l.publish(t, streamKeyed(v, "held")...)
	w := l.wire(t, 131072)
	w.send(`1 basic.consume queue="lost.a"`)
	w.want("1 basic.consume-ok")
	w.content()
	streamMust(t, w.conn.Close())
	d := streamNext(t, streamConsume(t, l.channel(t), v, ""), "delivery to another consumer")
	if !d.Redelivered || string(d.Body) != "held" {
		t.Errorf("got %q, redelivered %v; want what the lost consumer held", d.Body, d.Redelivered)
	}
}

// TestStreamUnknownTag: the broker's own 406.
func TestStreamUnknownTag(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"tag": "{}"})
	l.declare(t, "tag.a")
	conn := l.dial(t)
	ch := streamOpen(t, conn)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	streamConsume(t, ch, "tag.a", "")
	streamMust(t, ch.Ack(77, false))
	streamWantClosed(t, closed, amqp.PreconditionFailed, "unknown delivery tag 77")
	streamLives(t, streamOpen(t, conn))
}
