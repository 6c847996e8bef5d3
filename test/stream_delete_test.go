package test

import (
	"sort"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestStreamExchangeDelete: the stream goes, its shards and their messages stay.
func TestStreamExchangeDelete(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"del": "{shards-per-node: 3}"})
	const v = "del.a"
	l.declare(t, v)
	old := streamKeys("old", 30)
	l.publish(t, streamKeyed(v, old...)...)

	conn := l.dial(t)
	other := streamOpen(t, conn)
	err := streamOpen(t, conn).ExchangeDelete(v, true, false)
	streamWantError(t, err, amqp.PreconditionFailed, "in use") // by its shards' bindings
	streamLives(t, other)
	q, err := streamOpen(t, conn).QueueDeclarePassive(v, true, false, false, false, nil)
	if err != nil || q.Messages != len(old) {
		t.Errorf("after a refused exchange.delete: %+v, %v; want the stream with %d messages", q, err, len(old))
	}
	if err := streamOpen(t, conn).ExchangeDelete(v, false, false); err != nil {
		t.Fatalf("exchange.delete: %v", err)
	}

	messages, _ := l.shards(t, v, 3)
	if sum := messages[0] + messages[1] + messages[2]; sum != len(old) {
		t.Errorf("after exchange.delete the shards hold %v, want %d messages in all", messages, len(old))
	}
	streamIsGone(t, l, v)
	l.proxy.Kill()
	l.proxy.Boot()
	streamIsGone(t, l, v)

	// A declare, of another type too, adopts and binds the shards again.
	streamDeclare(t, l.channel(t), v, "x-random")
	l.publish(t, streamKeyed(v, streamKeys("new", 30)...)...)
	ch := l.channel(t)
	got := streamBodies(streamDrain(t, ch, v))
	want := append(old, streamKeys("new", 30)...)
	sort.Strings(want)
	if len(got) != len(want) {
		t.Fatalf("after a redeclare %d messages came, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("after a redeclare %q came, want %q", got[i], want[i])
		}
	}
}

// streamIsGone proves that v is an ordinary name without exchange and queue.
func streamIsGone(t *testing.T, l *streamLab, v string) {
	t.Helper()
	err := l.channel(t).ExchangeDeclarePassive(v, "direct", true, false, false, false, nil)
	streamWantError(t, err, amqp.NotFound, "no exchange '"+v+"'")
	_, err = l.channel(t).Consume(v, "", false, false, false, false, nil)
	streamWantError(t, err, amqp.NotFound, "no queue '"+v+"'")
	ch := l.channel(t)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.PublishWithContext(t.Context(), v, "k", false, false, amqp.Publishing{}); err != nil {
		t.Fatal(err)
	}
	streamWantClosed(t, closed, amqp.NotFound, "no exchange '"+v+"'")
}

// TestStreamExchangeDeleteOfNothing: the broker's answers stay its own.
func TestStreamExchangeDeleteOfNothing(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"del": "{}"})
	ch := l.channel(t)
	if err := ch.ExchangeDelete("del.never", false, false); err != nil {
		t.Errorf("exchange.delete of an unknown name: %v; RabbitMQ says delete-ok", err)
	}
	l.declare(t, "del.twice")
	for range 2 {
		if err := ch.ExchangeDelete("del.twice", false, false); err != nil {
			t.Errorf("exchange.delete: %v", err)
		}
	}
	l.declare(t, "del.nowait")
	if err := ch.ExchangeDelete("del.nowait", false, true); err != nil {
		t.Fatal(err)
	}
	streamLives(t, ch) // an answer on the channel: the delete is done
	streamIsGone(t, l, "del.nowait")
}
