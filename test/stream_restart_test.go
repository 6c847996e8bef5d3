package test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// TestStreamSurvivesRestart: streams, what they hash on and of what type they are
// outlive the proxy; nothing needs to be declared again.
func TestStreamSurvivesRestart(t *testing.T) {
	t.Parallel()
	end := map[string]func(*testing.T, *daemon.Proxy){
		"kill -9": func(t *testing.T, p *daemon.Proxy) { p.Kill() },
		"SIGTERM": func(t *testing.T, p *daemon.Proxy) {
			if code := p.Stop(streamPatience); code != 0 {
				t.Errorf("after SIGTERM the exit code is %d, want 0", code)
			}
		},
	}
	for name, end := range end {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startStreams(t, map[string]string{"re": "{shards-per-node: 4}"})
			const keyed, random, hashed = "re.keyed", "re.random", "re.hashed"
			l.declare(t, keyed)
			streamDeclare(t, l.channel(t), random, "x-random")
			byUser := declareRequest{kind: "x-consistent-hash", arguments: amqp.Table{"hash-header": "user"}}
			if err := byUser.on(l.channel(t), hashed); err != nil {
				t.Fatal(err)
			}
			keys := streamKeys("k", 50)
			l.publish(t, streamKeyed(keyed, keys...)...)
			before := l.drainShards(t, keyed, 4)
			l.publish(t, streamKeyed(keyed, "kept")...)

			end(t, l.proxy)
			l.proxy.Boot()

			// Publish first, then look: nothing here declares.
			l.publish(t, streamKeyed(keyed, keys...)...)
			after := l.drainShards(t, keyed, 4)
			if _, kept := after["kept"]; !kept {
				t.Error("the message that was in a shard is gone")
			}
			for _, key := range keys {
				if after[key] != before[key] {
					t.Errorf("key %s was in shard %d and is now in %d", key, before[key], after[key])
				}
			}
			streamRandomSpreads(t, l, random, 4)
			declareHashesOnUser(t, l, hashed)
			streamConsumesAll(t, l, keyed, 4)
			// What was asked at first is what redeclares are compared with.
			declareRefused(t, l.dial(t), random, declareRequest{kind: "topic"}, amqp.PreconditionFailed, random)
			declareRefused(t, l.dial(t), hashed, declareRequest{kind: "x-consistent-hash",
				arguments: amqp.Table{"hash-header": "other"}}, amqp.PreconditionFailed)
		})
	}
}

// streamRandomSpreads proves that v's messages of one key go to several shards.
func streamRandomSpreads(t *testing.T, l *streamLab, v string, shards int) {
	t.Helper()
	var messages []streamMessage
	for i := range 100 {
		messages = append(messages, streamMessage{v, "same key", amqp.Publishing{Body: fmt.Append(nil, i)}})
	}
	l.publish(t, messages...)
	count := make([]int, shards)
	for _, shard := range l.drainShards(t, v, shards) {
		count[shard]++
	}
	sum := 0
	for i, n := range count {
		sum += n
		if n == 0 { // of 4 shards: once in 10^12 runs
			t.Errorf("shard %d of %s got none of 100 messages, want them spread: %v", i, v, count)
		}
	}
	if sum != len(messages) {
		t.Errorf("the shards of %s got %d messages, want %d", v, sum, len(messages))
	}
}

// streamConsumesAll publishes to v and consumes all of it with one consumer for
// each shard.
func streamConsumesAll(t *testing.T, l *streamLab, v string, shards int) {
	t.Helper()
	ch := l.channel(t)
	deliveries := make(chan amqp.Delivery)
	for i := range shards {
		from, err := ch.Consume(v, fmt.Sprint("all-", i), true, false, false, false, nil)
		if err != nil {
			t.Fatalf("consume %s: %v", v, err)
		}
		go func() { // ends with the connection
			for d := range from {
				deliveries <- d
			}
		}()
	}
	keys := streamKeys("all", 60)
	l.publish(t, streamKeyed(v, keys...)...)
	got := map[string]bool{}
	for range keys {
		got[string(streamNext(t, deliveries, "delivery").Body)] = true
	}
	if len(got) != len(keys) {
		t.Errorf("%d different messages were delivered, want %d", len(got), len(keys))
	}
}

// TestStreamAdopted: a proxy that remembers nothing takes up a stream with the
// first thing that a client does with it.
func TestStreamAdopted(t *testing.T) {
	t.Parallel()
	first := startStreams(t, map[string]string{"lazy": "{shards-per-node: 3}"})
	uses := map[string]func(*testing.T, *streamLab, string){
		"publish": func(t *testing.T, l *streamLab, v string) {
			l.publish(t, streamKeyed(v, streamKeys("new", 30)...)...)
			if where := l.drainShards(t, v, 3); len(where) != 31 {
				t.Errorf("the shards hold %d messages, want the old one and 30 new ones", len(where))
			}
		},
		"default exchange": func(t *testing.T, l *streamLab, v string) {
			l.publish(t, streamMessage{"", v, amqp.Publishing{Body: []byte("new")}})
			if where := l.drainShards(t, v, 3); len(where) != 2 {
				t.Errorf("the shards hold %d messages, want the old one and the new one", len(where))
			}
		},
		"consume": func(t *testing.T, l *streamLab, v string) { streamConsumesSome(t, l, v, "old") },
		"get": func(t *testing.T, l *streamLab, v string) {
			if got := streamBodies(streamDrain(t, l.channel(t), v)); len(got) != 1 || got[0] != "old" {
				t.Errorf("got %q, want the old message", got)
			}
		},
		"passive declare": func(t *testing.T, l *streamLab, v string) {
			err := l.channel(t).ExchangeDeclarePassive(v, "topic", true, false, false, false, nil)
			if err != nil {
				t.Errorf("passive exchange.declare: %v", err)
			}
		},
		"passive queue.declare": func(t *testing.T, l *streamLab, v string) {
			q, err := l.channel(t).QueueDeclarePassive(v, true, false, false, false, nil)
			if err != nil || q.Name != v || q.Messages != 1 {
				t.Errorf("passive queue.declare: %+v, %v; want %s with 1 message", q, err, v)
			}
		},
		"refusal": func(t *testing.T, l *streamLab, v string) {
			_, err := l.channel(t).QueuePurge(v, false)
			streamWantError(t, err, amqp.PreconditionFailed, v)
		},
	}
	for use := range uses {
		first.declare(t, "lazy."+use)
		first.publish(t, streamKeyed("lazy."+use, "old")...)
	}
	second := first.another(t)
	for use, run := range uses {
		t.Run(use, func(t *testing.T) {
			v := "lazy." + use
			if state := second.state(t, v); state != "unknown" {
				t.Fatalf("before its first use the state is %q, want it unknown", state)
			}
			run(t, second, v)
			if state := second.state(t, v); state != "ready" {
				t.Errorf("after its first use the state is %q, want ready", state)
			}
		})
	}
}

// streamConsumesSome consumes v with a consumer for each of 3 shards and wants
// this message to come.
func streamConsumesSome(t *testing.T, l *streamLab, v, body string) {
	t.Helper()
	ch, all := l.channel(t), make(chan amqp.Delivery, 100)
	for range 3 {
		from, err := ch.Consume(v, "", true, false, false, false, nil)
		if err != nil {
			t.Fatalf("consume %s: %v", v, err)
		}
		go func() { // ends with the connection
			for d := range from {
				all <- d
			}
		}()
	}
	if d := streamNext(t, all, "delivery"); string(d.Body) != body {
		t.Errorf("consumed %q, want %q", d.Body, body)
	}
}

// TestStreamNameWithoutExchange: a name that matches a policy is ordinary as long
// as no exchange has it.
func TestStreamNameWithoutExchange(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"name": "{shards-per-node: 2}"})
	const v = "name.a"
	_, err := l.channel(t).Consume(v, "", true, false, false, false, nil)
	streamWantError(t, err, amqp.NotFound, "no queue 'name.a'")
	_, _, err = l.channel(t).Get(v, true)
	streamWantError(t, err, amqp.NotFound, "no queue 'name.a'")
	ch := l.channel(t)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.PublishWithContext(t.Context(), v, "k", false, false, amqp.Publishing{}); err != nil {
		t.Fatal(err)
	}
	streamWantClosed(t, closed, amqp.NotFound, "no exchange 'name.a'")

	ch = l.channel(t)
	if _, err := ch.QueueDeclare(v, true, false, false, false, amqp.Table{"x-max-length": 10}); err != nil {
		t.Fatalf("declare an ordinary queue: %v", err)
	}
	if err := ch.QueueBind(v, "k", "amq.direct", false, nil); err != nil {
		t.Fatalf("bind an ordinary queue: %v", err)
	}
	l.publish(t, streamMessage{"", v, amqp.Publishing{Body: []byte("1")}}, streamMessage{"amq.direct", "k", amqp.Publishing{Body: []byte("2")}})
	if got := streamDrain(t, ch, v); len(got) != 2 || got[0].Exchange != "" || got[1].Exchange != "amq.direct" {
		t.Errorf("the ordinary queue gave %+v, want both messages", got)
	}
	if _, err := ch.QueueDelete(v, false, false, false); err != nil {
		t.Errorf("delete an ordinary queue: %v", err)
	}
	if !l.shardsGone(t, v, 1) {
		t.Error("a shard was made for a name that is no stream")
	}
}

// TestStreamKeysKeepTheirShards: from any connection, of any proxy, before and
// after a restart, a key's messages are in one shard.
func TestStreamKeysKeepTheirShards(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"keys": "{shards-per-node: 7}"})
	const v = "keys.a"
	l.declare(t, v)
	keys := append(streamKeys("k", 300), "", "ü", "a.b.c", "#", "\x00\xff")
	var want map[string]int
	check := func(l *streamLab, when string) {
		t.Helper()
		l.publish(t, streamKeyed(v, keys...)...)
		got := l.drainShards(t, v, 7)
		if len(got) != len(keys) {
			t.Fatalf("%s: the shards hold %d messages, want %d", when, len(got), len(keys))
		}
		for key, shard := range want {
			if got[key] != shard {
				t.Errorf("%s: key %q is in shard %d, want %d", when, key, got[key], shard)
			}
		}
		want = got
	}
	check(l, "at first")
	check(l, "from another connection")
	l.proxy.Signal(syscall.SIGTERM)
	l.proxy.Wait(10 * time.Second)
	l.proxy.Boot()
	check(l, "after a restart")
	check(l.another(t), "through another proxy")
	used := map[int]bool{}
	for _, shard := range want {
		used[shard] = true
	}
	if len(used) != 7 {
		t.Errorf("%d keys are in %d of 7 shards, want all", len(keys), len(used))
	}
}
