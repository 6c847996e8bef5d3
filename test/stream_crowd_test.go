package test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// TestDeclareAtOnce: many clients declare the same and other streams at once.
func TestDeclareAtOnce(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"once": "{shards-per-node: 2}"})
	var declaring sync.WaitGroup
	for i := range 20 {
		ch := l.channel(t)
		declaring.Go(func() {
			for _, v := range []string{"once.same", fmt.Sprint("once.", i%5), "once.same"} {
				if err := ch.ExchangeDeclare(v, "topic", true, false, false, false, nil); err != nil {
					t.Errorf("declare %s: %v", v, err)
				}
			}
		})
	}
	declaring.Wait()
	for _, v := range []string{"once.same", "once.0", "once.4"} {
		l.publish(t, streamKeyed(v, streamKeys("k", 30)...)...)
		if where := l.drainShards(t, v, 2); len(where) != 30 {
			t.Errorf("the shards of %s hold %d messages, want 30", v, len(where))
		}
	}
}

// TestDeclareByAFleet: as many clients as there may be when all of an application
// starts at once, each with a declare of the stream that is there already.
func TestDeclareByAFleet(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"fleet": "{shards-per-node: 40}"})
	const v = "fleet.a"
	l.declare(t, v)
	var channels []*amqp.Channel
	for range 20 {
		conn := l.dial(t)
		for range 20 {
			channels = append(channels, streamOpen(t, conn))
		}
	}
	var declaring sync.WaitGroup
	var refused atomic.Int32
	for _, ch := range channels {
		declaring.Go(func() {
			if err := ch.ExchangeDeclare(v, "x-consistent-hash", true, false, false, false, nil); err != nil {
				t.Logf("declare: %v", err)
				refused.Add(1)
			}
		})
	}
	declaring.Wait()
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of %d declares of a stream that is there were refused, want none", n, len(channels))
	}
}

// TestDeclareAgainstDelete: whoever wins, everybody is answered, and what comes out
// is a stream or none.
func TestDeclareAgainstDelete(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"race": "{shards-per-node: 2}"})
	const v = "race.a"
	var racing sync.WaitGroup
	for _, do := range []func(*amqp.Channel) error{
		func(ch *amqp.Channel) error { return ch.ExchangeDeclare(v, "topic", true, false, false, false, nil) },
		func(ch *amqp.Channel) error { return ch.ExchangeDeclare(v, "topic", true, false, false, false, nil) },
		func(ch *amqp.Channel) error { return ch.ExchangeDelete(v, false, false) },
	} {
		conn := l.dial(t)
		racing.Go(func() {
			for range 30 {
				ch, err := conn.Channel()
				if err == nil {
					err = do(ch) // a channel error is a fair answer to a declare that lost
				}
				if err != nil && !strings.Contains(err.Error(), v) {
					t.Errorf("got %v, want ok or an error that names %s", err, v)
				}
				ch.Close()
			}
		})
	}
	racing.Wait()
	streamDeclare(t, l.channel(t), v, "topic")
	l.publish(t, streamKeyed(v, streamKeys("k", 30)...)...)
	if where := l.drainShards(t, v, 2); len(where) != 30 {
		t.Errorf("the shards hold %d messages, want 30", len(where))
	}
}

// TestStreamCrowd: publishers, consumers, getters and clients that are refused, all
// at once; every message comes out once.
func TestStreamCrowd(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"crowd": "{shards-per-node: 5}"})
	const v, publishers, each = "crowd.a", 6, 500
	l.declare(t, v)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	all := make(chan string, publishers*each)
	var busy, pestering, publishing sync.WaitGroup
	var conns []*amqp.Connection
	for range 3 {
		conn := l.dial(t)
		conns = append(conns, conn)
		for range 2 {
			from, err := streamOpen(t, conn).Consume(v, "", true, false, false, false, nil)
			streamMust(t, err)
			busy.Go(func() {
				for d := range from {
					all <- string(d.Body)
				}
			})
		}
		pestering.Go(func() { streamPester(ctx, t, conn, v, all) })
	}
	for p := range publishers {
		ch := declareConfirming(t, l.channel(t))
		publishing.Go(func() {
			if err := streamTryPublish(ctx, ch, streamKeyed(v, streamKeys(fmt.Sprint("p", p), each)...)...); err != nil {
				t.Error(err)
			}
		})
	}
	publishing.Wait()
	got := map[string]int{}
	for range publishers * each {
		got[streamNext(t, all, "delivery")]++
	}
	stop()
	pestering.Wait()
	for _, conn := range conns {
		conn.Close()
	}
	busy.Wait()
	if len(got) != publishers*each {
		t.Errorf("%d different messages came, want %d", len(got), publishers*each)
	}
	if messages, _ := l.shards(t, v, 5); messages[0]+messages[1]+messages[2]+messages[3]+messages[4] != 0 {
		t.Errorf("the shards still hold %v", messages)
	}
}

// streamPester does what is refused, and gets, until ctx is done.
func streamPester(ctx context.Context, t *testing.T, conn *amqp.Connection, v string, got chan<- string) {
	getter, err := conn.Channel()
	for ctx.Err() == nil && err == nil {
		var ch *amqp.Channel
		if ch, err = conn.Channel(); err != nil {
			break
		}
		if refused := ch.QueueBind(v, "k", "amq.direct", false, nil); refused == nil || !strings.Contains(refused.Error(), "406") {
			t.Errorf("queue.bind of the stream: %v, want 406", refused)
		}
		var d amqp.Delivery
		var ok bool
		if d, ok, err = getter.Get(v, true); ok {
			got <- string(d.Body)
		}
	}
	if err != nil && ctx.Err() == nil {
		t.Errorf("a channel beside those that were refused: %v", err)
	}
}

// TestStreamShardsPerNodeChanged: more shards come with the next declare; those
// that are too many are kept with what they hold, and get nothing new.
func TestStreamShardsPerNodeChanged(t *testing.T) {
	t.Parallel()
	vhost := rabbit.VHost(t)
	const v = "spn.a"
	for round, shards := range []int{3, 5, 2} {
		l := startStreamsOn(t, rabbit, vhost, map[string]string{"spn": fmt.Sprintf("{shards-per-node: %d}", shards)})
		l.declare(t, v)
		keys := streamKeys(fmt.Sprint("round", round), 100)
		l.publish(t, streamKeyed(v, keys...)...)
		where := l.drainShards(t, v, max(3, shards))
		used := map[int]bool{}
		for _, shard := range where {
			used[shard] = true
		}
		if len(where) != len(keys) || len(used) != shards || used[shards] {
			t.Errorf("with %d shards per node %d of %d messages are in the shards %v", shards, len(where), len(keys), used)
		}
		if round == 1 {
			l.fillShards(t, v, 0, 0, 0, 4, 5)
		}
		if round == 2 {
			if messages, _ := l.shards(t, v, 5); messages[3] != 4 || messages[4] != 5 {
				t.Errorf("the shards that are too many hold %v, want their 4 and 5 messages kept", messages[3:])
			}
		}
	}
}

// TestStreamStableOverBrokerRestart: after a restart of the broker the stream works
// as it is, a key's messages go where they went, and all is there.
func TestStreamStableOverBrokerRestart(t *testing.T) {
	t.Parallel()
	n := broker.ForTest(t, broker.Options{})
	l := startStreamsOn(t, n, n.VHost(t), map[string]string{"stable": "{shards-per-node: 40}"})
	const v = "stable.a"
	l.declare(t, v)
	keys := streamKeys("k", 500)
	messages := streamKeyed(v, keys...)
	for i := range messages {
		messages[i].DeliveryMode = amqp.Persistent
	}
	l.publish(t, messages...)
	streamMust(t, n.Restart(t.Context()))
	before := l.drainShards(t, v, 40)
	if len(before) != len(keys) {
		t.Errorf("after the restart the shards hold %d messages, want %d", len(before), len(keys))
	}
	daemon.Eventually(t, streamPatience, func() error {
		if state := l.state(t, v); state != "ready" {
			return fmt.Errorf("the broker is back, and %s is %q", v, state)
		}
		return nil
	})
	l.publish(t, messages...)
	if after := l.drainShards(t, v, 40); !maps.Equal(before, after) {
		t.Errorf("after the restart keys are in other shards than before:\n%v\n%v", before, after)
	}
}
