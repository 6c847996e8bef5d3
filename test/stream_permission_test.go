package test

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
)

// streamAs connects another user than guest through the proxy.
func (l *streamLab) streamAs(t *testing.T, u broker.User) *amqp.Connection {
	t.Helper()
	u.VHost, u.Password = l.vhost, "secret"
	l.broker.AddUser(t, u)
	return streamDial(t, l.proxy.URL(u.Name, u.Password, l.vhost))
}

// TestStreamPermissions: what a client asks for is done with its own permissions,
// those of the exchange and of the shards.
func TestStreamPermissions(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"perm": "{shards-per-node: 2}",
		"all":  "{shards-per-node: 2, queue-purge: all, queue-delete: all, queue-declare: answer}",
	})
	const v = "perm.a"
	l.declare(t, v)
	l.declare(t, "all.a")
	l.fillShards(t, "all.a", 3, 3)
	writer := l.streamAs(t, broker.User{Name: "perm-writer", Write: `^perm\.a$`})
	reader := l.streamAs(t, broker.User{Name: "perm-reader", Read: `^stream: (perm|all)\.a - `})
	nobody := l.streamAs(t, broker.User{Name: "perm-nobody"})

	t.Run("write on the exchange is enough to publish", func(t *testing.T) {
		ch := declareConfirming(t, streamOpen(t, writer))
		streamPublish(t, ch, streamKeyed(v, streamKeys("k", 20)...)...)
		messages, _ := l.shards(t, v, 2)
		if messages[0]+messages[1] != 20 {
			t.Errorf("the shards hold %v, want 20 messages", messages)
		}
		streamPublish(t, ch, streamMessage{"", v, amqp.Publishing{}})
	})
	t.Run("read on the shards is enough to consume and get", func(t *testing.T) {
		ch := streamOpen(t, reader)
		if _, ok, err := ch.Get(v, true); err != nil || !ok {
			t.Errorf("get: %v, %v; want a message", ok, err)
		}
		streamConsume(t, ch, v, "a")
		streamNext(t, streamConsume(t, ch, v, "b"), "delivery")
		if n, err := ch.QueuePurge("all.a", false); err != nil || n != 6 {
			t.Errorf("purge: %d, %v; want 6", n, err)
		}
	})
	refused := map[string]struct {
		conn *amqp.Connection
		do   func(*amqp.Channel) error
	}{
		"publish without write": {reader, func(ch *amqp.Channel) error { return streamRefusedPublish(t, ch, v) }},
		"consume without read": {writer, func(ch *amqp.Channel) error {
			_, err := ch.Consume(v, "", false, false, false, false, nil)
			return err
		}},
		"get without read":                  {writer, func(ch *amqp.Channel) error { _, _, err := ch.Get(v, true); return err }},
		"purge without read":                {writer, func(ch *amqp.Channel) error { _, err := ch.QueuePurge("all.a", false); return err }},
		"delete without configure":          {reader, func(ch *amqp.Channel) error { _, err := ch.QueueDelete("all.a", false, false, false); return err }},
		"exchange.delete without configure": {writer, func(ch *amqp.Channel) error { return ch.ExchangeDelete(v, false, false) }},
		"declare of a stream without configure": {writer, func(ch *amqp.Channel) error {
			return declareRequest{kind: "x-consistent-hash"}.on(ch, v)
		}},
		"declare of a new stream without configure": {nobody, func(ch *amqp.Channel) error {
			return declareRequest{kind: "x-consistent-hash"}.on(ch, "perm.new")
		}},
	}
	for name, c := range refused {
		t.Run(name, func(t *testing.T) {
			other := streamOpen(t, c.conn)
			streamWantError(t, c.do(streamOpen(t, c.conn)), amqp.AccessRefused, "ACCESS_REFUSED", "refused for user 'perm-")
			streamLives(t, other)
		})
	}
	if !l.shardsGone(t, "perm.new", 2) {
		t.Error("a declare that was refused made shards")
	}
	if l.shardsGone(t, "all.a", 2) {
		t.Error("a delete that was refused deleted shards")
	}
	streamWantError(t, l.direct(t).ExchangeDeclarePassive("perm.new", "direct", true, false, false, false, nil), amqp.NotFound)
}

// streamRefusedPublish gives the error that closes a channel after a publish.
func streamRefusedPublish(t *testing.T, ch *amqp.Channel, v string) error {
	t.Helper()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	streamMust(t, ch.PublishWithContext(t.Context(), v, "k", false, false, amqp.Publishing{}))
	return streamNext(t, closed, "channel.close")
}

// TestStreamVHosts: a name that is a stream in one vhost is an ordinary name in
// another, for a client of the same proxy.
func TestStreamVHosts(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"vh": "{shards-per-node: 2}"})
	const v = "vh.a"
	l.declare(t, v)
	l.publish(t, streamKeyed(v, "stays")...)
	other := rabbit.VHost(t)
	conn := streamDial(t, l.proxy.URL("guest", "guest", other))
	ch := streamOpen(t, conn)
	if q, err := ch.QueueDeclare(v, false, true, false, false, nil); err != nil || q.Name != v {
		t.Fatalf("declare an ordinary queue: %+v, %v", q, err)
	}
	streamMust(t, ch.ExchangeDeclare(v, "fanout", false, true, false, false, nil))
	streamMust(t, ch.QueueBind(v, "", v, false, nil))
	streamMust(t, ch.ExchangeBind("amq.fanout", "", v, false, nil))
	streamPublish(t, declareConfirming(t, streamOpen(t, conn)), streamKeyed(v, "ordinary")...)
	got := streamDrain(t, ch, v)
	if len(got) != 1 || string(got[0].Body) != "ordinary" || got[0].Headers != nil {
		t.Errorf("the ordinary queue gave %+v, want the one message, without headers", got)
	}
	streamPublish(t, declareConfirming(t, streamOpen(t, conn)), streamMessage{"", v, amqp.Publishing{}})
	if n, err := ch.QueuePurge(v, false); err != nil || n != 1 {
		t.Errorf("purge: %d, %v; want 1", n, err)
	}
	streamMust(t, ch.QueueUnbind(v, "", v, nil))
	if n, err := ch.QueueDelete(v, false, false, false); err != nil || n != 0 {
		t.Errorf("delete: %d, %v", n, err)
	}
	if where := l.drainShards(t, v, 2); len(where) != 1 {
		t.Errorf("the stream in the first vhost holds %v, want its one message", where)
	}
}

// TestStreamPolicyOfEveryVHost: the vhost "*", and which of several policies holds.
func TestStreamPolicyOfEveryVHost(t *testing.T) {
	t.Parallel()
	first, second := rabbit.VHost(t), rabbit.VHost(t)
	yaml := fmt.Sprintf(`  - {name: high, pattern: '^pri\.', vhost: '%s', priority: 5, stream-definition: three}
  - {name: everywhere, pattern: '^pri\.', vhost: "*", stream-definition: one}
  - {name: no-definition, pattern: '^bare\.', vhost: '%s'}
parameters: {shards-per-node: 4}`, first, first)
	l := startStreamsOn(t, rabbit, first, map[string]string{"one": "{shards-per-node: 1}", "three": "{shards-per-node: 3}"}, yaml)
	elsewhere := &streamLab{proxy: l.proxy, broker: l.broker, vhost: second}
	for _, c := range []struct {
		l      *streamLab
		v      string
		shards int
	}{{l, "pri.a", 3}, {elsewhere, "pri.a", 1}, {l, "bare.a", 4}} {
		c.l.declare(t, c.v)
		c.l.shards(t, c.v, c.shards)
		_, err := c.l.direct(t).QueueDeclarePassive(streamShard(c.v, c.shards), true, false, false, false, nil)
		streamWantError(t, err, amqp.NotFound)
	}
}
