package test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestStreamRandom: messages of one key go to all shards.
func TestStreamRandom(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"random": "{shards-per-node: 4}"})
	streamDeclare(t, l.channel(t), "random.a", "x-random")
	streamRandomSpreads(t, l, "random.a", 4)
}

// TestStreamHashOn: what a message's shard is chosen by. All messages of a group
// have one shard, and groups differ; the routing key is another for each message.
func TestStreamHashOn(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"header":      "{shards-per-node: 5, hash-on: 'header:user'}",
		"message":     "{shards-per-node: 5, hash-on: 'property:message_id'}",
		"correlation": "{shards-per-node: 5, hash-on: 'property:correlation_id'}",
		"timestamp":   "{shards-per-node: 5, hash-on: 'property:timestamp'}",
	})
	header := func(value func(group int) any) func(int) amqp.Publishing {
		return func(group int) amqp.Publishing {
			return amqp.Publishing{Headers: amqp.Table{"also": "there", "user": value(group), "zzz": []any{int32(1)}}}
		}
	}
	cases := []struct {
		v, name string
		message func(group int) amqp.Publishing
	}{
		{"header.a", "string", header(func(g int) any { return fmt.Sprint("user-", g) })},
		{"header.a", "int32", header(func(g int) any { return int32(g) })},
		{"header.a", "int64", header(func(g int) any { return int64(g) << 40 })},
		{"header.a", "int8", header(func(g int) any { return int8(-g) })},
		{"message.a", "message id", func(g int) amqp.Publishing { return amqp.Publishing{MessageId: fmt.Sprint("m", g), AppId: "x"} }},
		{"correlation.a", "correlation id", func(g int) amqp.Publishing { return amqp.Publishing{CorrelationId: fmt.Sprint("c", g), MessageId: "x"} }},
		{"timestamp.a", "timestamp", func(g int) amqp.Publishing { return amqp.Publishing{Timestamp: time.Unix(int64(1e9+g), 0)} }},
	}
	for _, v := range []string{"header.a", "message.a", "correlation.a", "timestamp.a"} {
		l.declare(t, v)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { streamGroups(t, l, c.v, 5, c.message) })
	}
}

// streamGroups publishes four messages of each of 40 groups.
func streamGroups(t *testing.T, l *streamLab, v string, shards int, message func(group int) amqp.Publishing) {
	t.Helper()
	const groups = 40
	var messages []streamMessage
	for i := range 4 * groups {
		p := message(i % groups)
		p.Body = fmt.Append(nil, i)
		messages = append(messages, streamMessage{v, fmt.Sprint("key-", i), p})
	}
	l.publish(t, messages...)
	where := l.drainShards(t, v, shards)
	if len(where) != len(messages) {
		t.Fatalf("the shards hold %d messages, want %d", len(where), len(messages))
	}
	used := map[int]bool{}
	for i := range messages {
		shard := where[fmt.Sprint(i%groups)]
		used[shard] = true
		if got := where[fmt.Sprint(i)]; got != shard {
			t.Errorf("message %d of group %d is in shard %d, want %d", i, i%groups, got, shard)
		}
	}
	if len(used) != shards {
		t.Errorf("%d groups are in shards %v, want all %d used", groups, slices.Sorted(maps.Keys(used)), shards)
	}
}

// TestStreamHashOnMissing: a message without what the stream hashes on is lost
// nowhere, and neither is one with a header of a type that has no plain text.
func TestStreamHashOnMissing(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"header": "{shards-per-node: 5, hash-on: 'header:user'}",
		"prop":   "{shards-per-node: 5, hash-on: 'property:message_id'}",
	})
	for _, v := range []string{"header.a", "prop.a"} {
		l.declare(t, v)
		var messages []streamMessage
		for i, p := range []amqp.Publishing{
			{},
			{Headers: amqp.Table{"other": "x"}},
			{Headers: amqp.Table{"user": ""}},
			{Headers: amqp.Table{"user": nil}},
			{Headers: amqp.Table{"user": true}},
			{Headers: amqp.Table{"user": 1.5}},
			{Headers: amqp.Table{"user": []byte("bytes")}},
			{Headers: amqp.Table{"user": amqp.Table{"a": "b"}}},
			{Headers: amqp.Table{"user": []any{"a", "b"}}},
			{Headers: amqp.Table{"user": amqp.Decimal{Scale: 1, Value: 5}}},
			{Headers: amqp.Table{"user": time.Unix(1e9, 0)}},
		} {
			for k := range 10 {
				p.Body = fmt.Appendf(nil, "%d-%d", i, k)
				messages = append(messages, streamMessage{v, fmt.Sprint("key-", k), p})
			}
		}
		l.publish(t, messages...)
		if where := l.drainShards(t, v, 5); len(where) != len(messages) {
			t.Errorf("the shards of %s hold %d messages, want %d", v, len(where), len(messages))
		}
	}
}

// TestStreamDefaultExchange: publishing to the virtual queue's name means the
// stream, on a shard at random unless it hashes on something of the message.
func TestStreamDefaultExchange(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"default": "{shards-per-node: 3}",
		"header":  "{shards-per-node: 5, hash-on: 'header:user'}",
	})
	const v = "default.a"
	l.declare(t, v)
	l.declare(t, "header.a")
	const count = 120
	var messages []streamMessage
	for i := range count {
		messages = append(messages, streamMessage{"", v, amqp.Publishing{Body: fmt.Append(nil, i)}})
	}
	l.publish(t, messages...)
	stored, _ := l.shards(t, v, 3)
	for i, n := range stored {
		if n == 0 {
			t.Errorf("shard %d got none of %d messages, want them at random: %v", i, count, stored)
		}
	}
	got := streamDrain(t, l.channel(t), v)
	if len(got) != count {
		t.Errorf("%d messages came, want %d", len(got), count)
	}
	for _, d := range got {
		if d.Exchange != v || d.RoutingKey != v {
			t.Fatalf("a consumer sees exchange %q and key %q, want %q and %q", d.Exchange, d.RoutingKey, v, v)
		}
	}
	t.Run("hash-on", func(t *testing.T) {
		var messages []streamMessage
		for i := range 60 {
			p := amqp.Publishing{Headers: amqp.Table{"user": fmt.Sprint(i % 20)}, Body: fmt.Append(nil, i)}
			messages = append(messages, streamMessage{"", "header.a", p})
		}
		l.publish(t, messages...)
		where := l.drainShards(t, "header.a", 5)
		for i := range messages {
			if got, want := where[fmt.Sprint(i)], where[fmt.Sprint(i%20)]; got != want || len(where) != len(messages) {
				t.Fatalf("message %d of %d is in shard %d, want %d, where the others of its user are", i, len(where), got, want)
			}
		}
	})
}

// TestStreamDistribution: distinct keys over equal shards, within what a
// multinomial allows; the broker's own counts.
func TestStreamDistribution(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"dist": "{shards-per-node: 6}"})
	const v, keys, shards = "dist.a", 20000, 6
	l.declare(t, v)
	l.publish(t, streamKeyed(v, streamKeys("customer", keys)...)...)
	messages, _ := l.shards(t, v, shards)
	sum, chi := 0, 0.0
	for _, n := range messages {
		expected := float64(keys) / shards
		chi += (float64(n) - expected) * (float64(n) - expected) / expected
		sum += n
	}
	t.Logf("%v, chi-square %.2f", messages, chi)
	if sum != keys {
		t.Errorf("the shards hold %d messages, want %d", sum, keys)
	}
	// 5 degrees of freedom, p = 0.001.
	if chi > 20.515 {
		t.Errorf("chi-square is %.2f over %v, want at most 20.515", chi, messages)
	}
}

// TestStreamWeights: all shards of one node have the same weight, whatever the
// routing-key of the definition says.
func TestStreamWeights(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"light": `{shards-per-node: 3, routing-key: "1"}`, "heavy": `{shards-per-node: 3, routing-key: "1000000"}`})
	for _, v := range []string{"light.a", "heavy.a"} {
		l.declare(t, v)
		l.publish(t, streamKeyed(v, streamKeys("k", 600)...)...)
		messages, _ := l.shards(t, v, 3)
		for _, n := range messages {
			if n < 120 || n > 280 { // 7 standard deviations
				t.Errorf("the shards of %s hold %v, want about 200 each", v, messages)
			}
		}
	}
}
