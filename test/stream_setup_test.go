package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

const (
	// streamNode names the shards' node in all stream tests.
	streamNode = "rabbit1@test"
	// streamPatience bounds every wait for something that must come.
	streamPatience = 20 * time.Second
)

// streamLab is a proxy and a vhost in which its policies hold: an exchange whose
// name begins with the name of a definition and a dot is a stream of that
// definition.
type streamLab struct {
	proxy  *daemon.Proxy
	broker *broker.Node
	vhost  string
	yaml   string
}

// startStreams starts a lab on the shared broker. The definitions are flow
// mappings by name; extra is more lines of YAML.
func startStreams(t *testing.T, definitions map[string]string, extra ...string) *streamLab {
	t.Helper()
	return startStreamsOn(t, rabbit, rabbit.VHost(t), definitions, extra...)
}

func startStreamsOn(t *testing.T, n *broker.Node, vhost string, definitions map[string]string, extra ...string) *streamLab {
	t.Helper()
	yaml := fmt.Sprintf("node: %s\nbroker: amqp://%s\ndefinitions:\n", streamNode, n.Addr())
	policies := "policies:\n"
	for name, definition := range definitions {
		yaml += fmt.Sprintf("  %s: %s\n", name, definition)
		policies += fmt.Sprintf("  - {name: %s, pattern: '^%s\\.', vhost: '%s', stream-definition: %s}\n", name, name, vhost, name)
	}
	yaml += policies + strings.Join(extra, "\n")
	return &streamLab{proxy: daemon.Start(t, yaml), broker: n, vhost: vhost, yaml: yaml}
}

// another is a lab with the same broker, vhost and configuration, and a proxy
// that remembers nothing.
func (l *streamLab) another(t *testing.T) *streamLab {
	t.Helper()
	return &streamLab{proxy: daemon.Start(t, l.yaml), broker: l.broker, vhost: l.vhost, yaml: l.yaml}
}

func streamDial(t *testing.T, url string) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatalf("dial %s: %v", url, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func streamOpen(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatalf("open a channel: %v", err)
	}
	return ch
}

// dial connects guest through the proxy.
func (l *streamLab) dial(t *testing.T) *amqp.Connection {
	t.Helper()
	return streamDial(t, l.proxy.URL("guest", "guest", l.vhost))
}

// channel opens a channel on a connection of its own through the proxy.
func (l *streamLab) channel(t *testing.T) *amqp.Channel {
	t.Helper()
	return streamOpen(t, l.dial(t))
}

// direct opens a channel past the proxy.
func (l *streamLab) direct(t *testing.T) *amqp.Channel {
	t.Helper()
	return streamOpen(t, streamDial(t, l.broker.URL(l.vhost)))
}

// declare makes v a stream through the proxy.
func (l *streamLab) declare(t *testing.T, v string) {
	t.Helper()
	streamDeclare(t, l.channel(t), v, "x-consistent-hash")
}

func streamDeclare(t *testing.T, ch *amqp.Channel, v, kind string) {
	t.Helper()
	if err := ch.ExchangeDeclare(v, kind, true, false, false, false, nil); err != nil {
		t.Fatalf("declare %s as %s: %v", v, kind, err)
	}
}

func streamShard(v string, index int) string {
	return fmt.Sprintf("stream: %s - %s - %d", v, streamNode, index)
}

// shards reads v's queues on the broker itself: how many messages and consumers
// each has.
func (l *streamLab) shards(t *testing.T, v string, count int) (messages, consumers []int) {
	t.Helper()
	ch := l.direct(t)
	for i := range count {
		q, err := ch.QueueDeclarePassive(streamShard(v, i), true, false, false, false, nil)
		if err != nil {
			t.Fatalf("shard %d of %s on the broker: %v", i, v, err)
		}
		messages, consumers = append(messages, q.Messages), append(consumers, q.Consumers)
	}
	return messages, consumers
}

// shardsGone tells whether the broker knows no shard of v up to count.
func (l *streamLab) shardsGone(t *testing.T, v string, count int) bool {
	t.Helper()
	for i := range count {
		_, err := l.direct(t).QueueDeclarePassive(streamShard(v, i), true, false, false, false, nil)
		if err == nil {
			return false
		}
		streamWantError(t, err, amqp.NotFound)
	}
	return true
}

// state is the state of v that the admin listener shows.
func (l *streamLab) state(t *testing.T, v string) string {
	t.Helper()
	_, body := l.proxy.Get("/api/v1/streams")
	var streams []map[string]any
	if err := json.Unmarshal([]byte(body), &streams); err != nil {
		t.Fatalf("/api/v1/streams is not JSON: %v\n%s", err, body)
	}
	for _, s := range streams {
		if s["stream"] == v && s["vhost"] == l.vhost {
			return fmt.Sprint(s["state"])
		}
	}
	return "unknown"
}

// logged is the first line of the proxy's log of this level that has all
// fragments, or "".
func (l *streamLab) logged(level string, fragments ...string) string {
	for line := range strings.Lines(l.proxy.Log()) {
		has := strings.Contains(line, fmt.Sprintf(`"level":%q`, level))
		for _, f := range fragments {
			has = has && strings.Contains(line, f)
		}
		if has {
			return line
		}
	}
	return ""
}

// streamWantError wants an AMQP error with this code and with all fragments in
// its text.
func streamWantError(t *testing.T, err error, code int, fragments ...string) {
	t.Helper()
	var e *amqp.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an AMQP error %d", err, code)
	}
	if e.Code != code {
		t.Fatalf("got error %d %q, want %d", e.Code, e.Reason, code)
	}
	for _, f := range fragments {
		if !strings.Contains(e.Reason, f) {
			t.Errorf("error %d says %q, want it to say %q", code, e.Reason, f)
		}
	}
}

// streamWantClosed waits for the error that closes a channel.
func streamWantClosed(t *testing.T, closed <-chan *amqp.Error, code int, fragments ...string) {
	t.Helper()
	err := streamNext(t, closed, fmt.Sprintf("a channel.close %d", code))
	streamWantError(t, err, code, fragments...)
}

// streamNext is the next value of a channel, which must come.
func streamNext[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	late := time.NewTimer(streamPatience)
	defer late.Stop()
	select {
	case v, open := <-from:
		if !open {
			t.Fatalf("the channel closed; want %s", what)
		}
		return v
	case <-late.C:
		t.Fatalf("after %s: no %s", streamPatience, what)
	}
	panic("unreachable")
}

// streamLives proves that a channel works.
func streamLives(t *testing.T, ch *amqp.Channel) {
	t.Helper()
	if err := ch.ExchangeDeclarePassive("amq.direct", "direct", true, false, false, false, nil); err != nil {
		t.Errorf("another channel of the connection should live on: %v", err)
	}
}

func streamConfirm(t *testing.T, ch *amqp.Channel) {
	t.Helper()
	if err := ch.Confirm(false); err != nil {
		t.Fatalf("confirm.select: %v", err)
	}
}

// streamMessage is a message to be published.
type streamMessage struct {
	exchange, key string
	amqp.Publishing
}

// publish publishes on a channel of a new connection through the proxy and
// waits until all is acked.
func (l *streamLab) publish(t *testing.T, messages ...streamMessage) {
	t.Helper()
	ch := l.channel(t)
	streamConfirm(t, ch)
	streamPublish(t, ch, messages...)
}

func streamPublish(t *testing.T, ch *amqp.Channel, messages ...streamMessage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*streamPatience)
	defer cancel()
	if err := streamTryPublish(ctx, ch, messages...); err != nil {
		t.Fatal(err)
	}
}

func streamTryPublish(ctx context.Context, ch *amqp.Channel, messages ...streamMessage) error {
	confirms := make([]*amqp.DeferredConfirmation, len(messages))
	for i, m := range messages {
		var err error
		confirms[i], err = ch.PublishWithDeferredConfirmWithContext(ctx, m.exchange, m.key, false, false, m.Publishing)
		if err != nil {
			return fmt.Errorf("publish %d to %q with key %q: %w", i, m.exchange, m.key, err)
		}
	}
	for i, c := range confirms {
		if acked, err := c.WaitContext(ctx); err != nil || !acked {
			return fmt.Errorf("publish %d of %d: acked %v, %w; want an ack", i, len(messages), acked, err)
		}
	}
	return nil
}

// streamKeyed are messages to v with these keys, which are their bodies too.
func streamKeyed(v string, keys ...string) []streamMessage {
	out := make([]streamMessage, len(keys))
	for i, key := range keys {
		out[i] = streamMessage{v, key, amqp.Publishing{Body: []byte(key)}}
	}
	return out
}

// streamKeys are count distinct keys.
func streamKeys(prefix string, count int) []string {
	keys := make([]string, count)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return keys
}

// streamDrain gets what a queue holds until it is empty.
func streamDrain(t *testing.T, ch *amqp.Channel, queue string) []amqp.Delivery {
	t.Helper()
	var out []amqp.Delivery
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatalf("get from %q: %v", queue, err)
		}
		if !ok {
			return out
		}
		out = append(out, d)
	}
}

// drainShards gets what the shards of v hold, past the proxy, in which shard each
// body was.
func (l *streamLab) drainShards(t *testing.T, v string, count int) map[string]int {
	t.Helper()
	ch, where := l.direct(t), map[string]int{}
	for i := range count {
		for _, d := range streamDrain(t, ch, streamShard(v, i)) {
			if other, twice := where[string(d.Body)]; twice {
				t.Errorf("%q was in shard %d and in shard %d, want it once", d.Body, other, i)
			}
			where[string(d.Body)] = i
		}
	}
	return where
}

func streamBodies(deliveries []amqp.Delivery) []string {
	out := make([]string, len(deliveries))
	for i, d := range deliveries {
		out[i] = string(d.Body)
	}
	sort.Strings(out)
	return out
}
