package test

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// streamQueueRequest is what a client may ask of a queue.
type streamQueueRequest struct {
	transient, autoDelete, exclusive bool
	arguments                        amqp.Table
}

func (r streamQueueRequest) on(ch *amqp.Channel, queue string) (amqp.Queue, error) {
	return ch.QueueDeclare(queue, !r.transient, r.autoDelete, r.exclusive, false, r.arguments)
}

// TestStreamQueueDeclareAnswer: "queue-declare: answer" answers as if the virtual
// queue were one queue. For comparison there is one on the broker, which was
// declared with the arguments of the definition; what a client leaves out of
// them is no difference.
func TestStreamQueueDeclareAnswer(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"plain":  "{shards-per-node: 2, queue-declare: answer}",
		"args":   "{shards-per-node: 2, queue-declare: answer, queue-arguments: {x-message-ttl: 60000, x-max-length: 10, x-overflow: reject-publish}}",
		"quorum": "{shards-per-node: 2, queue-declare: answer, queue-arguments: {x-queue-type: quorum}}",
	})
	definitions := map[string]amqp.Table{
		"plain": nil, "args": {"x-message-ttl": 60000, "x-max-length": 10, "x-overflow": "reject-publish"}, "quorum": {"x-queue-type": "quorum"},
	}
	requests := []streamQueueRequest{
		{}, {transient: true}, {autoDelete: true}, {exclusive: true}, {exclusive: true, transient: true},
		{arguments: amqp.Table{"x-message-ttl": 60000}},
		{arguments: amqp.Table{"x-message-ttl": int64(60000), "x-max-length": int16(10), "x-overflow": "reject-publish"}},
		{arguments: amqp.Table{"x-message-ttl": 60001, "x-max-length": 10, "x-overflow": "reject-publish"}},
		{arguments: amqp.Table{"x-message-ttl": "60000", "x-max-length": 10, "x-overflow": "reject-publish"}},
		{arguments: amqp.Table{"x-message-ttl": 60000, "x-max-length": 10, "x-overflow": "drop-head"}},
		{arguments: amqp.Table{"x-message-ttl": 60000, "x-max-length": 10, "x-overflow": "reject-publish", "x-expires": 60000}},
		{arguments: amqp.Table{"x-queue-type": "classic"}}, {arguments: amqp.Table{"x-queue-type": "quorum"}},
		{arguments: amqp.Table{"x-expires": 60000}}, {arguments: amqp.Table{"x-max-length": int64(10)}},
	}
	conn, direct := l.dial(t), streamDial(t, l.broker.URL(l.vhost))
	for name, arguments := range definitions {
		v := name + ".a"
		l.declare(t, v)
		l.fillShards(t, v, 3, 4)
		like := "like " + name
		if _, err := streamOpen(t, direct).QueueDeclare(like, true, false, false, false, arguments); err != nil {
			t.Fatal(err)
		}
		for i, request := range requests {
			t.Run(fmt.Sprint(name, " ", i), func(t *testing.T) {
				t.Logf("%+v", request)
				full := request
				full.arguments = amqp.Table{}
				maps.Copy(full.arguments, arguments)
				maps.Copy(full.arguments, request.arguments)
				_, want := full.on(streamOpen(t, direct), like)
				got, err := request.on(streamOpen(t, conn), v)
				var wanted *amqp.Error
				if errors.As(want, &wanted) {
					streamWantError(t, err, wanted.Code, v)
				} else if queue := (amqp.Queue{Name: v, Messages: 7}); err != nil || got != queue {
					t.Errorf("got %+v, %v; the broker takes this for an equal queue, want %+v", got, err, queue)
				}
				streamLives(t, streamOpen(t, conn))
			})
		}
	}
}

// TestStreamQueueBindAcceptOwn: a framework that binds what it consumes.
func TestStreamQueueBindAcceptOwn(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"own": "{shards-per-node: 2, queue-bind: accept-own, queue-declare: answer}"})
	const v = "own.a"
	l.declare(t, v)
	l.declare(t, "own.b")
	conn := l.dial(t)
	if _, err := streamOpen(t, conn).QueueDeclare("ordinary", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	ch := streamOpen(t, conn)
	if _, err := ch.QueueDeclare(v, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	streamMust(t, ch.QueueBind(v, "#", v, false, nil))
	streamMust(t, ch.QueueBind("", "some.key", v, false, amqp.Table{"a": "b"})) // what was declared last
	streamMust(t, ch.QueueBind(v, "#", v, true, nil))
	streamConsume(t, ch, v, "")
	l.publish(t, streamKeyed(v, streamKeys("k", 40)...)...)
	if n, err := l.broker.Eval(t.Context(), fmt.Sprintf("length(rabbit_binding:list_for_source(rabbit_misc:r(<<%q>>, exchange, <<%q>>)))", l.vhost, v)); n != "2" || err != nil {
		t.Errorf("the exchange has %s bindings (%v), want those of its 2 shards", n, err)
	}
	for name, refused := range map[string]func(*amqp.Channel) error{
		"to another exchange":            func(ch *amqp.Channel) error { return ch.QueueBind(v, "#", "amq.topic", false, nil) },
		"to another stream":              func(ch *amqp.Channel) error { return ch.QueueBind(v, "#", "own.b", false, nil) },
		"of another queue":               func(ch *amqp.Channel) error { return ch.QueueBind("ordinary", "#", v, false, nil) },
		"of a shard":                     func(ch *amqp.Channel) error { return ch.QueueBind(streamShard(v, 0), "#", v, false, nil) },
		"of an exchange to the stream":   func(ch *amqp.Channel) error { return ch.ExchangeBind(v, "#", "amq.topic", false, nil) },
		"of the stream to an exchange":   func(ch *amqp.Channel) error { return ch.ExchangeBind("amq.topic", "#", v, false, nil) },
		"of the stream to the stream":    func(ch *amqp.Channel) error { return ch.ExchangeBind(v, "#", v, false, nil) },
		"of the stream to another queue": func(ch *amqp.Channel) error { return ch.QueueBind("ordinary", "#", "own.b", false, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			streamWantError(t, refused(streamOpen(t, conn)), amqp.PreconditionFailed, "bind", "own.")
		})
	}
}

// TestStreamQueuePurgeAll: "queue-purge: all" empties every shard.
func TestStreamQueuePurgeAll(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"purge": "{shards-per-node: 3, queue-purge: all}"})
	const v = "purge.a"
	l.declare(t, v)
	ch := l.channel(t)
	for _, c := range [][]int{{4, 5, 6}, {0, 0, 0}, {0, 1, 0}} {
		l.fillShards(t, v, c...)
		n, err := ch.QueuePurge(v, false)
		if want := c[0] + c[1] + c[2]; err != nil || n != want {
			t.Errorf("purge of %v: %d, %v; want %d", c, n, err, want)
		}
		if left, _ := l.shards(t, v, 3); left[0]+left[1]+left[2] != 0 {
			t.Errorf("after the purge the shards hold %v, want nothing", left)
		}
	}
	l.fillShards(t, v, 2, 2, 2)
	if _, err := ch.QueuePurge(v, true); err != nil {
		t.Fatal(err)
	}
	streamLives(t, ch) // the answer comes after the purge is done
	if left, _ := l.shards(t, v, 3); left[0]+left[1]+left[2] != 0 {
		t.Errorf("after a purge with nowait the shards hold %v, want nothing", left)
	}
	// The shards are bound as before.
	l.publish(t, streamKeyed(v, streamKeys("k", 30)...)...)
	if where := l.drainShards(t, v, 3); len(where) != 30 {
		t.Errorf("the shards hold %d messages, want 30", len(where))
	}
}

// TestStreamQueueDeleteAll: "queue-delete: all" deletes every shard, or none where
// a condition does not hold for all.
func TestStreamQueueDeleteAll(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"gone": "{shards-per-node: 3, queue-delete: all}"})
	kept := func(t *testing.T, v string, err error, messages, consumers int) {
		t.Helper()
		streamWantError(t, err, amqp.PreconditionFailed, v)
		m, c := l.shards(t, v, 3) // fails where one is missing
		if m[0]+m[1]+m[2] != messages || c[0]+c[1]+c[2] != consumers {
			t.Errorf("after a refused delete the shards hold %v messages and have %v consumers, want %d and %d", m, c, messages, consumers)
		}
	}
	t.Run("if-unused", func(t *testing.T) {
		const v = "gone.unused"
		l.declare(t, v)
		l.fillShards(t, v, 0, 0, 2)
		consumer, ch := l.channel(t), l.channel(t)
		streamMust(t, consumer.Qos(1, 0, false))
		for range 3 {
			streamConsume(t, consumer, v, "")
		}
		l.wantConsumers(t, v, 1, 1, 1)
		_, err := ch.QueueDelete(v, true, false, false)
		kept(t, v, err, 1, 3)
		streamMust(t, consumer.Close())
		l.wantConsumers(t, v, 0, 0, 0)
		streamDeleted(t, l, v, 2, true, false)
	})
	t.Run("if-empty", func(t *testing.T) {
		const v = "gone.empty"
		l.declare(t, v)
		l.fillShards(t, v, 0, 0, 2)
		_, err := l.channel(t).QueueDelete(v, false, true, false)
		kept(t, v, err, 2, 0)
		_, err = l.channel(t).QueueDelete(v, true, true, false)
		kept(t, v, err, 2, 0)
		l.drainShards(t, v, 3)
		streamDeleted(t, l, v, 0, true, true)
	})
	t.Run("without conditions", func(t *testing.T) {
		const v = "gone.all"
		l.declare(t, v)
		l.fillShards(t, v, 3, 4, 5)
		streamDeleted(t, l, v, 12, false, false)
	})
	t.Run("over a restart", func(t *testing.T) {
		const v = "gone.restart"
		l.declare(t, v)
		if _, err := l.channel(t).QueueDelete(v, false, false, false); err != nil {
			t.Fatal(err)
		}
		l.proxy.Kill()
		l.proxy.Boot()
		_, err := l.channel(t).Consume(v, "", false, false, false, false, nil)
		streamWantError(t, err, amqp.NotFound, v)
		if !l.shardsGone(t, v, 3) {
			t.Error("a restart made the deleted shards again, want a declare to do that")
		}
		l.declare(t, v)
		l.shards(t, v, 3)
	})
	t.Run("nowait", func(t *testing.T) {
		const v = "gone.nowait"
		l.declare(t, v)
		ch := l.channel(t)
		if _, err := ch.QueueDelete(v, false, false, true); err != nil {
			t.Fatal(err)
		}
		streamLives(t, ch)
		if !l.shardsGone(t, v, 3) {
			t.Error("after a delete with nowait and an answer on the channel there are shards left")
		}
	})
}

// streamDeleted deletes v's shards, wants this count, and sees what a stream
// without shards does and how they come back.
func streamDeleted(t *testing.T, l *streamLab, v string, want int, ifUnused, ifEmpty bool) {
	t.Helper()
	ch := l.channel(t)
	if n, err := ch.QueueDelete(v, ifUnused, ifEmpty, false); err != nil || n != want {
		t.Fatalf("delete: %d, %v; want %d", n, err, want)
	}
	if !l.shardsGone(t, v, 3) {
		t.Fatal("after the delete there are shards left")
	}
	_, err := l.channel(t).Consume(v, "", false, false, false, false, nil)
	streamWantError(t, err, amqp.NotFound, v)
	_, _, err = l.channel(t).Get(v, true)
	streamWantError(t, err, amqp.NotFound, v)
	streamWantError(t, streamRefusedPublish(t, l.channel(t), v), amqp.NotFound, v)
	l.declare(t, v)
	l.publish(t, streamKeyed(v, streamKeys("k", 60)...)...)
	messages, _ := l.shards(t, v, 3)
	if messages[0]+messages[1]+messages[2] != 60 || messages[0] == 0 || messages[1] == 0 || messages[2] == 0 {
		t.Errorf("after a redeclare the shards hold %v, want 60 messages, some in each", messages)
	}
}
