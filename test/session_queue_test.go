package test

import (
	"context"
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// TestSessionQueues: what queues can do, they do through the proxy.
func TestSessionQueues(t *testing.T) {
	t.Parallel()
	l := startPlain(t)
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, l sessionPlain, ch *amqp.Channel)
	}{
		{"server-named and exclusive", sessionExclusive},
		{"direct reply-to", sessionReplyTo},
		{"tx", sessionTx},
		{"priorities", sessionPriorities},
		{"dead letters and TTL", sessionDeadLetters},
		{"qos", sessionQos},
		{"recover", sessionRecover},
		{"nack and reject", sessionNacks},
		{"nacked publishes", sessionNackedPublishes},
		{"cancels", sessionCancels},
		{"purge and delete", sessionPurgeAndDelete},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, l, l.channel(t)) })
	}
}

// sessionExclusive: a server-named exclusive queue is its connection's alone, is
// what an empty name means next, and dies with the connection.
func sessionExclusive(t *testing.T, l sessionPlain, _ *amqp.Channel) {
	conn := streamDial(t, l.url)
	ch, other := streamOpen(t, conn), l.channel(t)
	name := sessionDeclare(t, ch, "", nil)
	sessionMust(t, ch.QueueBind("", "key", "amq.direct", false, nil))
	sessionPut(t, ch, "amq.direct", "key", "mine")
	streamLives(t, ch)
	sessionGot(t, ch, name, "mine")
	if _, err := streamOpen(t, conn).Consume(name, "", true, false, false, false, nil); err != nil {
		t.Errorf("another channel of the same connection: %v", err)
	}
	_, err := other.Consume(name, "", true, false, false, false, nil)
	streamWantError(t, err, amqp.ResourceLocked, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '"+name)
	sessionMust(t, conn.Close())
	daemon.Eventually(t, streamPatience, func() error {
		q, err := l.channel(t).QueueDeclarePassive(name, false, false, true, false, nil)
		if e, ok := err.(*amqp.Error); ok && e.Code == amqp.NotFound {
			return nil
		}
		return fmt.Errorf("the queue of a closed connection: %+v, %v", q, err)
	})
}

func sessionReplyTo(t *testing.T, l sessionPlain, ch *amqp.Channel) {
	server := l.channel(t)
	sessionDeclare(t, server, "service", nil)
	requests, err := server.Consume("service", "", true, false, false, false, nil)
	sessionMust(t, err)
	replies, err := ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	sessionMust(t, err)
	for i := range 20 {
		id := fmt.Sprint(i)
		sessionPutMessage(t, ch, "", "service", amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: id})
		r := streamNext(t, requests, "a request")
		sessionPutMessage(t, server, "", r.ReplyTo, amqp.Publishing{CorrelationId: r.CorrelationId, Body: []byte("answer " + id)})
		a := streamNext(t, replies, "a reply")
		if string(a.Body) != "answer "+id || a.CorrelationId != id {
			t.Fatalf("got reply %q to %s, want that to %s", a.Body, a.CorrelationId, id)
		}
	}
}

func sessionTx(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	queue := sessionDeclare(t, ch, "", nil)
	sessionMust(t, ch.Tx())
	sessionPut(t, ch, "", queue, "taken back")
	sessionMust(t, ch.TxRollback())
	sessionPut(t, ch, "", queue, "committed")
	sessionGot(t, ch, queue)
	sessionMust(t, ch.TxCommit())
	sessionGot(t, ch, queue, "committed")
	streamWantError(t, ch.Confirm(false), 406, "cannot switch from tx to confirm mode")
}

func sessionPriorities(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	queue := sessionDeclare(t, ch, "", amqp.Table{"x-max-priority": 5})
	var messages []streamMessage
	for i, p := range []uint8{1, 5, 3, 0, 5} {
		messages = append(messages, streamMessage{"", queue, amqp.Publishing{Priority: p, Body: fmt.Appendf(nil, "%d-%d", p, i)}})
	}
	streamPublish(t, ch, messages...)
	sessionGot(t, ch, queue, "5-1", "5-4", "3-2", "1-0", "0-3")
}

func sessionDeadLetters(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	dead := sessionDeclare(t, ch, "", nil)
	queue := sessionDeclare(t, ch, "", amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead, "x-message-ttl": 600_000})
	expired, err := ch.Consume(dead, "", true, false, false, false, nil)
	sessionMust(t, err)
	streamPublish(t, ch,
		streamMessage{"", queue, amqp.Publishing{Expiration: "1", Body: []byte("expired")}},
		streamMessage{"", queue, amqp.Publishing{Body: []byte("rejected")}})
	for _, reason := range []string{"expired", "rejected"} {
		if reason == "rejected" {
			d, ok, err := ch.Get(queue, false)
			if err != nil || !ok {
				t.Fatalf("get: %v, %v", ok, err)
			}
			sessionMust(t, d.Reject(false))
		}
		d := streamNext(t, expired, "a dead letter")
		deaths, _ := d.Headers["x-death"].([]any)
		if len(deaths) != 1 || deaths[0].(amqp.Table)["reason"] != reason || string(d.Body) != reason {
			t.Errorf("got %q with x-death %v, want the reason %q", d.Body, deaths, reason)
		}
	}
}

func sessionQos(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	queue := sessionDeclare(t, ch, "", nil)
	sessionMust(t, ch.Qos(2, 0, false))
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	sessionMust(t, err)
	streamPublish(t, ch, streamKeyed("", queue, queue, queue, queue, queue)...)
	for range 2 {
		first, second := streamNext(t, deliveries, "a delivery"), streamNext(t, deliveries, "a delivery")
		streamLives(t, ch) // a round trip: more would have come with it
		if n := len(deliveries); n != 0 {
			t.Fatalf("%d deliveries over the prefetch of 2", n)
		}
		if second.DeliveryTag != first.DeliveryTag+1 {
			t.Errorf("tags %d and %d, want them to follow", first.DeliveryTag, second.DeliveryTag)
		}
		sessionMust(t, second.Ack(true))
	}
	streamNext(t, deliveries, "the fifth delivery")
}

func sessionRecover(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	queue := sessionDeclare(t, ch, "", nil)
	streamPublish(t, ch, streamMessage{"", queue, amqp.Publishing{Body: []byte("again")}})
	deliveries, err := ch.Consume(queue, "tag", false, false, false, false, nil)
	sessionMust(t, err)
	for i := range 3 {
		d := streamNext(t, deliveries, "a delivery")
		if d.Redelivered != (i > 0) || d.ConsumerTag != "tag" || d.DeliveryTag != uint64(i+1) {
			t.Errorf("delivery %d: redelivered %v, consumer tag %q, tag %d", i, d.Redelivered, d.ConsumerTag, d.DeliveryTag)
		}
		sessionMust(t, ch.Recover(true))
	}
}

func sessionNacks(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	queue := sessionDeclare(t, ch, "", nil)
	get := func() amqp.Delivery {
		d, ok, err := ch.Get(queue, false)
		if err != nil || !ok {
			t.Fatalf("get: %v, %v", ok, err)
		}
		return d
	}
	for _, body := range []string{"1", "2", "3", "4"} {
		streamPublish(t, ch, streamMessage{"", queue, amqp.Publishing{Body: []byte(body)}})
	}
	get()
	sessionMust(t, get().Nack(true, true)) // 1 and 2 are back
	first, second := get(), get()
	if string(first.Body)+string(second.Body) != "12" || !first.Redelivered || first.MessageCount != 3 {
		t.Errorf("got %q (redelivered %v, %d left) and %q, want 1 and 2 again", first.Body, first.Redelivered, first.MessageCount, second.Body)
	}
	sessionMust(t, first.Reject(false))
	sessionMust(t, second.Reject(true))
	sessionGot(t, ch, queue, "2", "3", "4")
}

func sessionNackedPublishes(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	queue := sessionDeclare(t, ch, "", amqp.Table{"x-max-length": 3, "x-overflow": "reject-publish"})
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 9))
	for range 8 {
		sessionPut(t, ch, "", queue, "x")
	}
	acked := map[bool]int{}
	for range 8 {
		acked[streamNext(t, confirms, "a confirm").Ack]++
	}
	if acked[false] == 0 || acked[true] < 3 {
		t.Errorf("%d acks and %d nacks of a queue that takes 3", acked[true], acked[false])
	}
}

func sessionCancels(t *testing.T, l sessionPlain, ch *amqp.Channel) {
	queue := sessionDeclare(t, ch, "", nil)
	for _, tag := range []string{"stays", "goes"} {
		_, err := ch.Consume(queue, tag, true, false, false, false, nil)
		sessionMust(t, err)
	}
	sessionMust(t, ch.Cancel("goes", false))
	q, err := ch.QueueDeclarePassive(queue, false, false, true, false, nil)
	if err != nil || q.Consumers != 1 {
		t.Errorf("%d consumers after a cancel, %v; want 1", q.Consumers, err)
	}
	cancelled := ch.NotifyCancel(make(chan string, 2))
	_, err = ch.QueueDelete(queue, false, false, false)
	sessionMust(t, err)
	if tag := streamNext(t, cancelled, "basic.cancel"); tag != "stays" {
		t.Errorf("the broker cancelled %q, want \"stays\"", tag)
	}
	streamLives(t, ch)
}

func sessionPurgeAndDelete(t *testing.T, _ sessionPlain, ch *amqp.Channel) {
	streamConfirm(t, ch)
	queue := sessionDeclare(t, ch, "", nil)
	streamPublish(t, ch, streamKeyed("", queue, queue, queue)...)
	if n, err := ch.QueuePurge(queue, false); n != 3 || err != nil {
		t.Errorf("purge: %d, %v; want 3", n, err)
	}
	streamPublish(t, ch, streamKeyed("", queue)...)
	if n, err := ch.QueueDelete(queue, true, false, false); n != 1 || err != nil {
		t.Errorf("delete: %d, %v; want 1", n, err)
	}
	sessionMust(t, ch.PublishWithContext(context.Background(), "", queue, false, false, amqp.Publishing{}))
	streamLives(t, ch)
}
