package test

import (
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// declareRequest is what a client may ask of an exchange.
type declareRequest struct {
	kind                            string
	transient, autoDelete, internal bool
	arguments                       amqp.Table
}

func (r declareRequest) on(ch *amqp.Channel, v string) error {
	return ch.ExchangeDeclare(v, r.kind, !r.transient, r.autoDelete, r.internal, false, r.arguments)
}

// declareRefused declares on a channel of its own and wants the channel, and only
// it, to be closed.
func declareRefused(t *testing.T, conn *amqp.Connection, v string, r declareRequest, code int, fragments ...string) {
	t.Helper()
	other := streamOpen(t, conn)
	streamWantError(t, r.on(streamOpen(t, conn), v), code, fragments...)
	streamLives(t, other)
	if err := other.Close(); err != nil {
		t.Errorf("close the other channel: %v", err)
	}
}

func TestDeclareTypes(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"types": "{shards-per-node: 2}"})
	conn := l.dial(t)
	for _, kind := range []string{"direct", "topic", "x-consistent-hash", "x-modulus-hash", "x-random"} {
		t.Run("accepts "+kind, func(t *testing.T) {
			v := "types." + kind
			streamDeclare(t, streamOpen(t, conn), v, kind)
			keys := streamKeys("k", 40)
			l.publish(t, streamKeyed(v, keys...)...)
			messages, _ := l.shards(t, v, 2)
			if messages[0]+messages[1] != len(keys) || messages[0] == 0 || messages[1] == 0 {
				t.Errorf("the shards hold %v of %d messages, want all of them and some in each", messages, len(keys))
			}
			real := declareRequest{kind: "direct"}
			if err := real.on(l.direct(t), v); err != nil {
				t.Errorf("the broker's exchange should be direct and durable: %v", err)
			}
		})
	}
	refused := map[string]declareRequest{
		"fanout":             {kind: "fanout"},
		"headers":            {kind: "headers"},
		"auto-delete":        {kind: "direct", autoDelete: true},
		"internal":           {kind: "direct", internal: true},
		"alternate-exchange": {kind: "direct", arguments: amqp.Table{"alternate-exchange": "amq.fanout"}},
	}
	for name, request := range refused {
		t.Run("refuses "+name, func(t *testing.T) {
			v := "types.no-" + name
			declareRefused(t, conn, v, request, amqp.PreconditionFailed, name, v)
			err := l.direct(t).ExchangeDeclarePassive(v, "direct", true, false, false, false, nil)
			streamWantError(t, err, amqp.NotFound)
		})
	}
	t.Run("an unknown type is refused", func(t *testing.T) {
		declareRefused(t, conn, "types.unknown", declareRequest{kind: "x-no-such-type"}, amqp.PreconditionFailed, "x-no-such-type")
	})
}

func TestDeclareAgain(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"again": "{shards-per-node: 2}"})
	conn := l.dial(t)
	first := map[string]declareRequest{
		"again.topic":     {kind: "topic"},
		"again.random":    {kind: "x-random"},
		"again.transient": {kind: "x-modulus-hash", transient: true},
	}
	for v, request := range first {
		for round := range 3 {
			if err := request.on(streamOpen(t, conn), v); err != nil {
				t.Fatalf("declare %d of %s: %v", round+1, v, err)
			}
		}
	}
	cases := []struct {
		v       string
		request declareRequest
		says    string
	}{
		{"again.topic", declareRequest{kind: "direct"}, "type"},
		{"again.topic", declareRequest{kind: "x-random"}, "type"},
		{"again.topic", declareRequest{kind: "fanout"}, "type"},
		{"again.topic", declareRequest{kind: "topic", transient: true}, "durable"},
		{"again.topic", declareRequest{kind: "topic", autoDelete: true}, "auto"},
		{"again.topic", declareRequest{kind: "topic", internal: true}, "internal"},
		{"again.random", declareRequest{kind: "x-consistent-hash"}, "type"},
		{"again.transient", declareRequest{kind: "x-modulus-hash"}, "durable"},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s as %+v", c.v, c.request), func(t *testing.T) {
			declareRefused(t, conn, c.v, c.request, amqp.PreconditionFailed, c.says, c.v)
		})
	}
	// What was refused has changed nothing.
	for v, request := range first {
		if err := request.on(streamOpen(t, l.dial(t)), v); err != nil {
			t.Errorf("%s declared as at first: %v", v, err)
		}
	}
}

func TestDeclareHashArguments(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"open":  "{shards-per-node: 4}",
		"fixed": "{shards-per-node: 4, hash-on: 'header:user'}",
		"key":   "{shards-per-node: 4, hash-on: routing-key}",
	})
	conn := l.dial(t)
	byHeader := func(name string) declareRequest {
		return declareRequest{kind: "x-consistent-hash", arguments: amqp.Table{"hash-header": name}}
	}
	byProperty := func(name string) declareRequest {
		return declareRequest{kind: "x-consistent-hash", arguments: amqp.Table{"hash-property": name}}
	}
	both := declareRequest{kind: "x-consistent-hash", arguments: amqp.Table{"hash-header": "user", "hash-property": "message_id"}}
	plain := declareRequest{kind: "x-consistent-hash"}
	steps := []struct {
		v       string
		request declareRequest
		refused bool
	}{
		{"open.header", byHeader("user"), false}, // the first declare decides
		{"open.header", byHeader("user"), false},
		{"open.header", plain, false}, // one that says nothing agrees
		{"open.header", byHeader("other"), true},
		{"open.header", byProperty("message_id"), true},
		{"open.property", byProperty("correlation_id"), false},
		{"open.property", byProperty("timestamp"), true},
		{"open.key", plain, false}, // says routing-key by saying nothing
		{"open.key", byHeader("user"), true},
		{"open.both", both, true},
		{"open.wrong", byProperty("app_id"), true},
		{"open.wrong", declareRequest{kind: "x-consistent-hash", arguments: amqp.Table{"hash-header": int32(1)}}, true},
		{"fixed.a", byProperty("message_id"), true}, // the definition decides
		{"fixed.a", byHeader("other"), true},
		{"fixed.a", byHeader("user"), false},
		{"fixed.b", plain, false},
		{"key.a", byHeader("user"), true},
		{"key.a", plain, false},
	}
	for i, s := range steps {
		if s.refused {
			declareRefused(t, conn, s.v, s.request, amqp.PreconditionFailed)
		} else if err := s.request.on(streamOpen(t, conn), s.v); err != nil {
			t.Fatalf("step %d: declare %s with %v: %v", i, s.v, s.request.arguments, err)
		}
	}
	for _, v := range []string{"open.header", "fixed.a", "fixed.b"} {
		declareHashesOnUser(t, l, v)
	}
}

// declareHashesOnUser proves that v hashes on the header "user" and not on the
// routing key: all of one user is in one shard, and users differ.
func declareHashesOnUser(t *testing.T, l *streamLab, v string) {
	t.Helper()
	var messages []streamMessage
	for i := range 60 {
		p := amqp.Publishing{Headers: amqp.Table{"user": fmt.Sprint("u", i%20)}, Body: fmt.Appendf(nil, "%d", i)}
		messages = append(messages, streamMessage{v, fmt.Sprint("key-", i), p})
	}
	l.publish(t, messages...)
	where := l.drainShards(t, v, 4)
	if len(where) != len(messages) {
		t.Fatalf("%s holds %d messages, want %d", v, len(where), len(messages))
	}
	used := map[int]bool{}
	for i := range 20 {
		shard := where[fmt.Sprint(i)]
		used[shard] = true
		for _, later := range []int{i + 20, i + 40} {
			if got := where[fmt.Sprint(later)]; got != shard {
				t.Errorf("%s: user u%d is in shards %d and %d, want one", v, i, shard, got)
			}
		}
	}
	if len(used) < 3 {
		t.Errorf("%s: 20 users are in %d of 4 shards, want them spread", v, len(used))
	}
}

func TestDeclareLongNames(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"long": "{shards-per-node: 11}"})
	conn := l.dial(t)
	// The longest shard's name ends in "10", and it is bound with a longer key still.
	room := 255 - len("amqproxy:") - len(streamShard("", 10))
	fits := "long." + strings.Repeat("x", room-len("long."))
	streamDeclare(t, streamOpen(t, conn), fits, "topic")
	l.publish(t, streamKeyed(fits, streamKeys("k", 100)...)...)
	if where := l.drainShards(t, fits, 11); len(where) != 100 {
		t.Errorf("a stream whose shards' names are as long as they may be holds %d messages, want 100", len(where))
	}
	for _, v := range []string{fits + "x", fits + strings.Repeat("x", 9), fits + strings.Repeat("x", 10), "long." + strings.Repeat("x", 250)} {
		declareRefused(t, conn, v, declareRequest{kind: "topic"}, amqp.PreconditionFailed, "bytes")
		err := l.direct(t).ExchangeDeclarePassive(v, "direct", true, false, false, false, nil)
		streamWantError(t, err, amqp.NotFound)
	}
}
