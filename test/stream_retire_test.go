package test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// reconfigure restarts the proxy with something else in its configuration.
func (l *streamLab) reconfigure(t *testing.T, before, after string) {
	t.Helper()
	if code := l.proxy.Stop(streamPatience); code != 0 {
		t.Fatalf("the proxy ended with code %d", code)
	}
	l.proxy.Replace(before, after)
	l.proxy.Boot()
}

// shardState is the state of a shard that the admin listener shows; "" if it is
// not known.
func (l *streamLab) shardState(t *testing.T, queue string) string {
	t.Helper()
	for _, s := range view[struct{ Queue, State string }](t, l.proxy, "shards") {
		if s.Queue == queue {
			return s.State
		}
	}
	return ""
}

// untilGone waits until shard i of v is deleted at the broker.
func (l *streamLab) untilGone(t *testing.T, v string, i int) {
	t.Helper()
	daemon.Eventually(t, streamPatience, func() error {
		_, err := l.direct(t).QueueDeclarePassive(streamShard(v, i), true, false, false, false, nil)
		var e *amqp.Error
		if errors.As(err, &e) && e.Code == amqp.NotFound {
			return nil
		}
		return fmt.Errorf("shard %d is %s, its queue: %v", i, l.shardState(t, streamShard(v, i)), err)
	})
}

// TestRetireFewerShards: shards that are too many get nothing new and are unbound,
// their messages are read through the stream, and then they are deleted; whether the
// proxy remembers them or has to ask the broker.
func TestRetireFewerShards(t *testing.T) {
	t.Parallel()
	for name, forgets := range map[string]bool{"remembers": false, "forgets": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startStreams(t, map[string]string{"less": "{shards-per-node: 3}"})
			const v = "less.a"
			l.declare(t, v)
			old := streamKeys("old", 200)
			l.publish(t, streamKeyed(v, old...)...)
			if forgets {
				l.proxy.Kill() // or it would make the shards again
				l = startStreamsOn(t, rabbit, l.vhost, map[string]string{"less": "{shards-per-node: 1}"})
				l.declare(t, v)
			} else {
				l.reconfigure(t, "shards-per-node: 3", "shards-per-node: 1")
			}
			before, _ := l.shards(t, v, 3)
			fresh := streamKeys("fresh", 100)
			l.publish(t, streamKeyed(v, fresh...)...)
			after, _ := l.shards(t, v, 3)
			if after[0] != before[0]+len(fresh) || after[1] != before[1] || after[2] != before[2] || before[1] == 0 || before[2] == 0 {
				t.Errorf("the shards hold %v, and %v after %d more messages: want all of them in the first", before, after, len(fresh))
			}
			daemon.Eventually(t, streamPatience, func() error { return l.unbound(t, v, 1, 2) })
			got := map[string]bool{}
			for _, d := range streamDrain(t, l.channel(t), v) {
				got[string(d.Body)] = true
			}
			if len(got) != len(old)+len(fresh) {
				t.Errorf("%d of %d messages were read through the stream", len(got), len(old)+len(fresh))
			}
			l.untilGone(t, v, 1)
			l.untilGone(t, v, 2)
			if messages, _ := l.shards(t, v, 1); messages[0] != 0 || l.shardState(t, streamShard(v, 0)) != "ready" {
				t.Errorf("the shard that stays: %d messages, %s", messages[0], l.shardState(t, streamShard(v, 0)))
			}
		})
	}
}

// unbound tells whether shards of v are bound still.
func (l *streamLab) unbound(t *testing.T, v string, indexes ...int) error {
	t.Helper()
	ch := l.direct(t)
	streamConfirm(t, ch)
	returns := ch.NotifyReturn(make(chan amqp.Return, len(indexes)))
	for _, i := range indexes {
		// The messages are of no harm where they are routed: they expire at once.
		c, err := ch.PublishWithDeferredConfirm(v, "amqproxy:"+streamShard(v, i), true, false, amqp.Publishing{Expiration: "0"})
		if err != nil {
			return err
		}
		c.Wait()
		if len(returns) == 0 {
			return fmt.Errorf("shard %d is still bound", i)
		}
		<-returns
	}
	return nil
}

// TestRetireUnacknowledged: what a client holds of a retired shard and has not
// acknowledged is not deleted with it, whether it was consumed or got, through the
// stream or by the shard's own name, and though the broker counts it as empty. What
// the client gives back is delivered again.
func TestRetireUnacknowledged(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, ch *amqp.Channel, v string) amqp.Delivery{
		"consumed":         func(t *testing.T, ch *amqp.Channel, v string) amqp.Delivery { return takeOne(t, ch, v) },
		"consumed by name": func(t *testing.T, ch *amqp.Channel, v string) amqp.Delivery { return takeOne(t, ch, streamShard(v, 1)) },
		"got":              func(t *testing.T, ch *amqp.Channel, v string) amqp.Delivery { return getOne(t, ch, v) },
		"got by name":      func(t *testing.T, ch *amqp.Channel, v string) amqp.Delivery { return getOne(t, ch, streamShard(v, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startStreams(t, map[string]string{"held": "{shards-per-node: 3}"})
			const v = "held.a"
			l.declare(t, v)
			l.fillShards(t, v, 0, 1, 1)
			l.reconfigure(t, "shards-per-node: 3", "shards-per-node: 1")
			_, err := l.direct(t).Consume(streamShard(v, 0), "", true, false, false, false, nil) // so that nobody is sent there
			streamMust(t, err)
			d := take(t, l.channel(t), v)
			held, other := 1, 2
			if string(d.Body) == "2-0" {
				held, other = 2, 1
			}
			streamDrain(t, l.direct(t), streamShard(v, other))
			if messages, consumers := l.shards(t, v, 3); messages[held] != 0 || consumers[held] != 0 {
				t.Fatalf("the shards have %v messages and %v consumers; all of them is to be unacknowledged", messages, consumers)
			}
			l.untilGone(t, v, other) // to the broker, the two look alike
			if _, err := l.direct(t).QueueDeclarePassive(streamShard(v, held), true, false, false, false, nil); err != nil {
				t.Fatalf("a shard is gone with what a client holds of it: %v", err)
			}
			streamMust(t, d.Nack(false, true))
			again := takeOne(t, l.channel(t), v)
			if string(again.Body) != string(d.Body) || !again.Redelivered {
				t.Errorf("%q came, redelivered %v; want %q again", again.Body, again.Redelivered, d.Body)
			}
			streamMust(t, again.Ack(false))
			l.untilGone(t, v, held)
		})
	}
}

// takeOne takes one delivery and ends its consumer.
func takeOne(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	streamMust(t, ch.Qos(1, 0, false))
	deliveries, err := ch.Consume(queue, "taker", false, false, false, false, nil)
	streamMust(t, err)
	d := streamNext(t, deliveries, "a delivery from "+queue)
	streamMust(t, ch.Cancel("taker", false))
	return d
}

func getOne(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	d, ok, err := ch.Get(queue, false)
	if err != nil || !ok {
		t.Fatalf("get from %s: %v, %v", queue, ok, err)
	}
	return d
}

// TestRetireConsumersMove: a consumer on a retired shard drains it, and goes on with
// another shard then. It keeps its tag, its deliveries, and knows nothing of it.
func TestRetireConsumersMove(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"moves": "{shards-per-node: 2}"})
	const v = "moves.a"
	l.declare(t, v)
	l.fillShards(t, v, 0, 3)
	l.reconfigure(t, "shards-per-node: 2", "shards-per-node: 1")
	ch := l.channel(t)
	streamMust(t, ch.Qos(1, 0, false))
	cancelled := ch.NotifyCancel(make(chan string, 2))
	var both [2]<-chan amqp.Delivery
	for i := range both {
		var err error
		both[i], err = ch.Consume(v, fmt.Sprint("c", i), false, false, false, false, nil)
		streamMust(t, err)
	}
	for range 3 {
		select {
		case d := <-both[0]:
			streamMust(t, d.Ack(false))
		case d := <-both[1]:
			streamMust(t, d.Ack(false))
		case <-time.After(streamPatience):
			t.Fatal("the retired shard is not read")
		}
	}
	l.untilGone(t, v, 1)
	daemon.Eventually(t, streamPatience, func() error {
		if _, consumers := l.shards(t, v, 1); consumers[0] != 2 {
			return fmt.Errorf("the shard that stays has %d consumers, want both", consumers[0])
		}
		return nil
	})
	l.publish(t, streamKeyed(v, "x", "y")...)
	for i := range both { // with a prefetch of one each gets one
		d := streamNext(t, both[i], "a delivery")
		if d.ConsumerTag != fmt.Sprint("c", i) {
			t.Errorf("consumer tag %q, want c%d", d.ConsumerTag, i)
		}
		defer d.Ack(false)
	}
	if len(cancelled) > 0 {
		t.Errorf("the client was told that %s has ended", <-cancelled)
	}
	for i := range both {
		streamMust(t, ch.Cancel(fmt.Sprint("c", i), false))
	}
	streamLives(t, ch)
}

// TestRetirePolicyRemoved: without its policy a stream's exchange is an ordinary one;
// its queue is there until its shards are empty, and then they are gone, and the
// stream with them: the exchange stays what it is when the policy is back, until
// somebody declares or uses it.
func TestRetirePolicyRemoved(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"once": "{shards-per-node: 2}", "always": "{}"})
	const v = "once.a"
	l.declare(t, v)
	l.fillShards(t, v, 2, 2)
	l.reconfigure(t, "pattern: '^once", "pattern: '^never")
	if state := l.state(t, v); state != "ended" {
		t.Errorf("the stream is %q", state)
	}
	ch := l.channel(t)
	q, err := ch.QueueDeclare("plain", false, false, true, false, nil)
	streamMust(t, err)
	streamMust(t, ch.QueueBind(q.Name, "k", v, false, nil))
	streamConfirm(t, ch)
	streamPublish(t, ch, streamKeyed(v, "k")...)
	if got := streamDrain(t, ch, q.Name); len(got) != 1 {
		t.Errorf("%d messages came through the ordinary exchange, want 1", len(got))
	}
	if got := streamDrain(t, ch, v); len(got) != 4 {
		t.Errorf("%d messages were read through the stream that has ended, want its 4", len(got))
	}
	cancelled := ch.NotifyCancel(make(chan string, 1))
	deliveries, err := ch.Consume(v, "last", false, false, false, false, nil)
	if err == nil { // it came before the shards had closed: then it ends with them
		if tag := streamNext(t, cancelled, "a basic.cancel"); tag != "last" {
			t.Errorf("%q was cancelled", tag)
		}
		if _, open := <-deliveries; open {
			t.Error("a delivery came from an empty shard")
		}
	}
	l.untilGone(t, v, 0)
	l.untilGone(t, v, 1)
	daemon.Eventually(t, streamPatience, func() error {
		if state := l.state(t, v); state != "unknown" {
			return fmt.Errorf("the stream is %q", state)
		}
		return nil
	})
	_, _, err = l.channel(t).Get(v, true)
	streamWantError(t, err, amqp.NotFound)
	streamMust(t, l.channel(t).ExchangeDeclarePassive(v, "direct", true, false, false, false, nil))
}

// TestRetireWantedAgain: a shard that is wanted again is in use as it is.
func TestRetireWantedAgain(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"again": "{shards-per-node: 2}"})
	const v = "again.a"
	l.declare(t, v)
	l.fillShards(t, v, 0, 7)
	l.reconfigure(t, "shards-per-node: 2", "shards-per-node: 1")
	daemon.Eventually(t, streamPatience, func() error { return l.unbound(t, v, 1) })
	l.reconfigure(t, "shards-per-node: 1", "shards-per-node: 2")
	keys := streamKeys("k", 100)
	l.publish(t, streamKeyed(v, keys...)...)
	var held [2]int
	for i := range held {
		for _, d := range streamDrain(t, l.direct(t), streamShard(v, i)) {
			if len(d.Body) > 0 { // those of unbound are empty
				held[i]++
			}
		}
	}
	if held[0] == 0 || held[1] <= 7 || held[0]+held[1] != len(keys)+7 {
		t.Errorf("the shards held %v of %d messages", held, len(keys)+7)
	}
	if state := l.shardState(t, streamShard(v, 1)); state != "ready" {
		t.Errorf("the shard is %s", state)
	}
}

// TestRetireQuorum: quorum queues know no if-empty and no if-unused, and are deleted
// all the same, but not with what a client holds of them.
func TestRetireQuorum(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"quorum": "{shards-per-node: 3, queue-arguments: {x-queue-type: quorum}}"})
	const v = "quorum.a"
	l.declare(t, v)
	l.fillShards(t, v, 0, 3, 1)
	l.reconfigure(t, "shards-per-node: 3", "shards-per-node: 1")
	ch := l.channel(t)
	held := getOne(t, ch, streamShard(v, 1))
	if got := streamDrain(t, l.channel(t), v); len(got) != 3 {
		t.Errorf("%d messages were read through the stream, want the other three", len(got))
	}
	l.untilGone(t, v, 2) // to the broker, the two look alike
	if _, err := l.direct(t).QueueDeclarePassive(streamShard(v, 1), true, false, false, false, nil); err != nil {
		t.Fatalf("a shard is gone with what a client holds of it: %v", err)
	}
	streamMust(t, held.Ack(false))
	l.untilGone(t, v, 1)
	streamLives(t, ch)
}
