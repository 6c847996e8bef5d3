package test

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// rerouteAll publishes a message a key on a channel that confirms, and tells which were
// acked, and which came back.
func rerouteAll(t *testing.T, ch *amqp.Channel, exchange string, mandatory bool, keys []string, p amqp.Publishing) (acked map[string]bool, back map[string]amqp.Return) {
	t.Helper()
	returns := ch.NotifyReturn(make(chan amqp.Return, len(keys)))
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, len(keys)))
	first := ch.GetNextPublishSeqNo()
	for _, key := range keys {
		p.Body = []byte(key)
		streamMust(t, ch.PublishWithContext(t.Context(), exchange, key, mandatory, false, p))
	}
	acked, back = map[string]bool{}, map[string]amqp.Return{}
	for range keys {
		c := streamNext(t, confirms, "confirm")
		acked[keys[c.DeliveryTag-first]] = c.Ack
	}
	for len(returns) > 0 { // all are here: a return comes before its confirm
		r := <-returns
		back[string(r.Body)] = r
	}
	return acked, back
}

// healed waits until the shards of v that were deleted are there again.
func (l *streamLab) healed(t *testing.T, v string, shards int) {
	t.Helper()
	daemon.Eventually(t, streamPatience, func() error {
		for i := range shards {
			if _, err := l.direct(t).QueueDeclarePassive(streamShard(v, i), true, false, false, false, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestRerouteGoneShard: a message whose shard is gone is stored in the next one, and
// its confirm waits for that; with its properties and its own BCC, whether the client
// wants to see what comes back or not. It sees nothing.
func TestRerouteGoneShard(t *testing.T) {
	t.Parallel()
	for _, mandatory := range []bool{false, true} {
		t.Run(fmt.Sprint("mandatory ", mandatory), func(t *testing.T) {
			t.Parallel()
			l := startStreams(t, map[string]string{"mand": "{shards-per-node: 2}"})
			const v = "mand.a"
			l.declare(t, v)
			keys := streamKeys("k", 40)
			l.publish(t, streamKeyed(v, keys...)...)
			where := l.drainShards(t, v, 2)
			_, err := l.direct(t).QueueDelete(streamShard(v, 1), false, false, false)
			streamMust(t, err)
			ch := l.channel(t)
			streamConfirm(t, ch)
			headers := amqp.Table{"mine": "header"}
			acked, back := rerouteAll(t, ch, v, mandatory, keys, amqp.Publishing{Headers: headers, ContentType: "a/b", MessageId: "m"})
			if len(back) > 0 {
				t.Errorf("%d messages came back", len(back))
			}
			got, in0 := 0, 0
			l.healed(t, v, 2)
			for i := range 2 { // the healer may have come before some
				for _, d := range streamDrain(t, l.direct(t), streamShard(v, i)) {
					got++
					if fmt.Sprint(d.Headers) != fmt.Sprint(headers) || d.ContentType != "a/b" || d.MessageId != "m" || d.Exchange != v || !acked[string(d.Body)] {
						t.Errorf("%s: headers %v, type %q, id %q, exchange %q, acked %v", d.Body, d.Headers, d.ContentType, d.MessageId, d.Exchange, acked[string(d.Body)])
					}
					if where[string(d.Body)] == 1 && i == 0 {
						in0++
					}
				}
			}
			if got != len(keys) || in0 == 0 {
				t.Errorf("%d of %d messages are stored, %d of them in another shard", got, len(keys), in0)
			}
		})
	}
}

// TestRerouteNoShardLeft: when no shard takes a message it is nacked, and comes back to
// who asked for that. What is acked is stored.
func TestRerouteNoShardLeft(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"none": "{shards-per-node: 2}"})
	const v = "none.a"
	l.declare(t, v)
	keys := streamKeys("k", 20)
	for _, mandatory := range []bool{false, true} {
		daemon.Eventually(t, streamPatience, func() error { // the healer may come between
			ch := l.channel(t)
			streamConfirm(t, ch)
			direct := l.direct(t)
			for i := range 2 {
				_, err := direct.QueueDelete(streamShard(v, i), false, false, false)
				streamMust(t, err)
			}
			acked, back := rerouteAll(t, ch, v, mandatory, keys, amqp.Publishing{})
			stored := map[string]bool{}
			l.healed(t, v, 2)
			for _, d := range streamDrain(t, l.channel(t), v) {
				stored[string(d.Body)] = true
			}
			nacked := 0
			for _, key := range keys {
				r, came := back[key]
				switch {
				case acked[key] && !stored[key]:
					t.Errorf("%s was acked and is not stored", key)
				case came && !mandatory:
					t.Errorf("%s came back, and it was not mandatory", key)
				case came && (r.Exchange != v || r.RoutingKey != key || r.ReplyCode != amqp.NoRoute):
					t.Errorf("%s came back as %q, %q, %d", key, r.Exchange, r.RoutingKey, r.ReplyCode)
				}
				if !acked[key] {
					nacked++
				}
			}
			if nacked < len(keys) || mandatory && len(back) < len(keys) {
				return fmt.Errorf("of %d messages %d were nacked and %d came back", len(keys), nacked, len(back))
			}
			return nil
		})
	}
}

// TestRerouteWithoutConfirms: the same without confirms, for what is published to the
// virtual queue, and for a stream that sends messages anywhere.
func TestRerouteWithoutConfirms(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"plain": "{shards-per-node: 2}"})
	for _, kind := range []string{"direct", "x-random"} {
		v := "plain." + kind
		streamDeclare(t, l.channel(t), v, kind)
		_, err := l.direct(t).QueueDelete(streamShard(v, 1), false, false, false)
		streamMust(t, err)
		ch := l.channel(t)
		for i := range 40 {
			exchange, key := v, fmt.Sprint("k", i)
			if i%2 == 0 {
				exchange, key = "", v
			}
			streamMust(t, ch.PublishWithContext(t.Context(), exchange, key, false, false, amqp.Publishing{Body: fmt.Append(nil, i)}))
		}
		got := map[string]bool{}
		l.healed(t, v, 2)
		daemon.Eventually(t, streamPatience, func() error {
			for _, d := range streamDrain(t, l.channel(t), v) {
				got[string(d.Body)] = true
			}
			if len(got) != 40 {
				return fmt.Errorf("%s: %d of 40 messages are stored", v, len(got))
			}
			return nil
		})
	}
}
