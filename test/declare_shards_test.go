package test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
)

// declareQueueOnBroker is what the broker itself says about a queue.
func declareQueueOnBroker(t *testing.T, n *broker.Node, vhost, queue string) string {
	t.Helper()
	got, err := n.Eval(t.Context(), fmt.Sprintf(
		"{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<%q>>, queue, <<%q>>)), "+
			"[{durable, amqqueue:is_durable(Q)}, {auto_delete, amqqueue:is_auto_delete(Q)}, "+
			"{type, amqqueue:get_type(Q)} | lists:sort(amqqueue:get_arguments(Q))]", vhost, queue))
	if err != nil {
		t.Fatalf("look up %q on the broker: %v", queue, err)
	}
	return got
}

func TestDeclareMakesShards(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"plain":  "{}",
		"five":   "{shards-per-node: 5}",
		"args":   "{shards-per-node: 2, queue-arguments: {x-message-ttl: 600000, x-max-length: 1000, x-overflow: reject-publish, x-dead-letter-exchange: amq.fanout}}",
		"quorum": "{shards-per-node: 2, queue-arguments: {x-queue-type: quorum, x-delivery-limit: 7}}",
		"old":    `{shards-per-node: 2, queue-prefix: "sharding: "}`,
	})
	classic := []string{"{durable,true}", "{auto_delete,false}", "{type,rabbit_classic_queue}",
		`{<<"x-queue-master-locator">>,longstr,<<"client-local">>}`}
	cases := []struct {
		v      string
		shards int
		want   []string
	}{
		{"plain.a", 1, classic},
		{"five.a", 5, classic},
		{"args.a", 2, append([]string{`{<<"x-message-ttl">>,signedint,600000}`, `{<<"x-max-length">>,signedint,1000}`,
			`<<"x-overflow">>,longstr,<<"reject-publish">>`, `<<"x-dead-letter-exchange">>,longstr,<<"amq.fanout">>`}, classic...)},
		{"quorum.a", 2, []string{"{durable,true}", "{type,rabbit_quorum_queue}", `{<<"x-delivery-limit">>,signedint,7}`,
			`{<<"x-queue-leader-locator">>,longstr,<<"client-local">>}`}},
		{"old.a", 2, classic},
	}
	direct := streamDial(t, l.broker.URL(l.vhost)) // before the declare, to look at once after it
	for _, c := range cases {
		t.Run(c.v, func(t *testing.T) {
			name := func(i int) string { return streamShard(c.v, i) }
			if strings.HasPrefix(c.v, "old.") {
				name = func(i int) string { return fmt.Sprintf("sharding: %s - %s - %d", c.v, streamNode, i) }
			}
			l.declare(t, c.v)
			for i := range c.shards {
				declareBound(t, direct, c.v, name(i))
			}
			for i := range c.shards {
				got := declareQueueOnBroker(t, l.broker, l.vhost, name(i))
				for _, want := range c.want {
					if !declareShows(got, want) {
						t.Errorf("%s is %s, want %s in it", name(i), got, want)
					}
				}
			}
			_, err := l.direct(t).QueueDeclarePassive(name(c.shards), true, false, false, false, nil)
			streamWantError(t, err, amqp.NotFound)
		})
	}
}

// declareShows tolerates that the broker keeps an integer in the width it came in.
func declareShows(got, want string) bool {
	return strings.Contains(strings.ReplaceAll(strings.ReplaceAll(got, ",long,", ",signedint,"), ",byte,", ",signedint,"), want)
}

// declareBound proves that a shard is there, and bound by its own key alone.
func declareBound(t *testing.T, conn *amqp.Connection, v, shard string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), streamPatience)
	defer cancel()
	direct := streamOpen(t, conn)
	if _, err := direct.QueueDeclarePassive(shard, true, false, false, false, nil); err != nil {
		t.Fatalf("right after declare-ok: %v", err)
	}
	streamConfirm(t, direct)
	returns := direct.NotifyReturn(make(chan amqp.Return, 2))
	for _, key := range []string{"amqproxy:" + shard, "nothing is bound by this"} {
		confirm, err := direct.PublishWithDeferredConfirmWithContext(ctx, v, key, true, false, amqp.Publishing{Body: []byte(shard)})
		if err != nil {
			t.Fatal(err)
		}
		if acked, err := confirm.WaitContext(ctx); err != nil || !acked {
			t.Fatalf("publish with key %q: acked %v, %v", key, acked, err)
		}
	}
	// A return comes before its confirm.
	if r := streamNext(t, returns, "return of a message that no shard is for"); r.RoutingKey != "nothing is bound by this" || len(returns) > 0 {
		t.Fatalf("right after declare-ok a message with key %q was returned, want the shard to be bound", r.RoutingKey)
	}
	d, ok, err := direct.Get(shard, true)
	if err != nil || !ok || string(d.Body) != shard {
		t.Fatalf("the shard's own binding gave %q, %v, %v; want %q", d.Body, ok, err, shard)
	}
}

// TestDeclareTakesExistingShards: what is there is used as it is.
func TestDeclareTakesExistingShards(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"there": "{shards-per-node: 3, queue-arguments: {x-max-length: 500}}"})
	const v = "there.a"
	direct := l.direct(t)
	for i, args := range []amqp.Table{{"x-message-ttl": 3600000}, {"x-queue-type": "quorum"}} {
		if _, err := direct.QueueDeclare(streamShard(v, i), true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
	}
	streamPublish(t, declareConfirming(t, direct), streamMessage{"", streamShard(v, 0), amqp.Publishing{Body: []byte("old")}})
	l.declare(t, v)
	for i, want := range []string{`<<"x-message-ttl">>,signedint,3600000`, "rabbit_quorum_queue", `<<"x-max-length">>,signedint,500`} {
		if got := declareQueueOnBroker(t, l.broker, l.vhost, streamShard(v, i)); !declareShows(got, want) {
			t.Errorf("shard %d is %s, want it with %s", i, got, want)
		}
	}
	keys := streamKeys("k", 60)
	l.publish(t, streamKeyed(v, keys...)...)
	where := l.drainShards(t, v, 3)
	if shard, ok := where["old"]; !ok || shard != 0 {
		t.Errorf("the message that was in shard 0 is in %d (%v), want it there", shard, ok)
	}
	if len(where) != len(keys)+1 {
		t.Errorf("the shards hold %d messages, want %d", len(where), len(keys)+1)
	}
	for i, differs := range []bool{true, true, false} {
		warned := l.logged("warn", streamShard(v, i)) != ""
		if warned != differs {
			t.Errorf("a warning about shard %d: %v, want %v\n", i, warned, differs)
		}
	}
}

func declareConfirming(t *testing.T, ch *amqp.Channel) *amqp.Channel {
	t.Helper()
	streamConfirm(t, ch)
	return ch
}

// TestDeclareHealsShards: a declare of a stream whose shards were deleted or
// unbound past the proxy makes them again.
func TestDeclareHealsShards(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"heal": "{shards-per-node: 3}"})
	const v = "heal.a"
	l.declare(t, v)
	conn := streamDial(t, l.broker.URL(l.vhost))
	direct := streamOpen(t, conn)
	if _, err := direct.QueueDelete(streamShard(v, 1), false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := direct.QueueUnbind(streamShard(v, 2), "amqproxy:"+streamShard(v, 2), v, nil); err != nil {
		t.Fatal(err)
	}
	l.declare(t, v)
	for i := range 3 {
		declareBound(t, conn, v, streamShard(v, i))
	}
}

// TestDeclareUnderAQueuePolicy: a policy of the broker on the shards is its own
// business, that on where queues live too.
func TestDeclareUnderAQueuePolicy(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"under": "{shards-per-node: 3}"})
	declareBrokerPolicy(t, l, "set_policy", "--apply-to", "queues", "locate", "^stream: ", `{"queue-master-locator": "client-local", "max-length": 5}`)
	const v = "under.a"
	l.declare(t, v)
	l.publish(t, streamKeyed(v, streamKeys("k", 100)...)...)
	if messages, _ := l.shards(t, v, 3); messages[0] != 5 || messages[1] != 5 || messages[2] != 5 {
		t.Errorf("the shards hold %v, want the 5 messages each that the broker's policy leaves", messages)
	}
}
