package test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/internal/fakebroker"
	"amqproxy/test/daemon"
)

// embeddedStart runs the embedded broker.
func embeddedStart(t *testing.T, set ...func(*fakebroker.Server)) *fakebroker.Server {
	t.Helper()
	s, err := fakebroker.Listen("127.0.0.1:0")
	sessionMust(t, err)
	for _, set := range set {
		set(s)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	return s
}

// embeddedLab is a proxy in front of the embedded broker, with streams whose names
// begin with "logs." and three shards each.
func embeddedLab(t *testing.T) (*fakebroker.Server, *daemon.Proxy) {
	t.Helper()
	s := embeddedStart(t)
	return s, daemon.Start(t, "node: "+streamNode+"\nbroker: amqp://"+s.Addr()+"\ndefinitions: {logs: {shards-per-node: 3}}\n"+
		`policies: [{name: logs, pattern: '^logs\.', vhost: "*", stream-definition: logs}]`)
}

// embeddedConsume consumes a stream on channels of their own, one for each shard, and
// gives the bodies of count messages.
func embeddedConsume(t *testing.T, url, v string, count int) map[string]int {
	t.Helper()
	all := make(chan amqp.Delivery)
	var feeding sync.WaitGroup
	t.Cleanup(feeding.Wait) // behind the close of the connections, which ends it
	for range 3 {
		ch := streamOpen(t, streamDial(t, url))
		sessionMust(t, ch.Qos(20, 0, false))
		deliveries, err := ch.Consume(v, "", false, false, false, false, nil)
		sessionMust(t, err)
		feeding.Go(func() {
			for d := range deliveries {
				select {
				case all <- d:
				case <-t.Context().Done():
				}
			}
		})
	}
	got := map[string]int{}
	for range count {
		d := streamNext(t, all, "delivery")
		if d.Exchange != v || d.RoutingKey != string(d.Body) {
			t.Errorf("%q came from exchange %q with key %q", d.Body, d.Exchange, d.RoutingKey)
		}
		got[string(d.Body)]++
		sessionMust(t, d.Ack(false))
	}
	return got
}

// TestEmbeddedStream: a stream works on the embedded broker: declared, published to
// with confirms, read to the last message, counted and deleted.
func TestEmbeddedStream(t *testing.T) {
	t.Parallel()
	const v, count = "logs.embedded", 600
	s, p := embeddedLab(t)
	url := p.URL("guest", "guest", "/")
	ch := streamOpen(t, streamDial(t, url))
	streamDeclare(t, ch, v, "x-consistent-hash")
	streamConfirm(t, ch)
	keys := streamKeys("key", count)
	streamPublish(t, ch, streamKeyed(v, keys...)...)
	q, err := ch.QueueDeclarePassive(v, true, false, false, false, nil)
	sessionMust(t, err)
	if q.Messages != count {
		t.Errorf("the stream holds %d messages, want %d", q.Messages, count)
	}
	direct := streamOpen(t, streamDial(t, "amqp://guest:guest@"+s.Addr()))
	for i := range 3 {
		if shard, err := direct.QueueDeclarePassive(streamShard(v, i), true, false, false, false, nil); err != nil || shard.Messages == 0 {
			t.Errorf("shard %d: %d messages, %v", i, shard.Messages, err)
		}
	}
	got := embeddedConsume(t, url, v, count)
	for _, key := range keys {
		if got[key] != 1 {
			t.Errorf("%s came %d times", key, got[key])
		}
	}
	if _, more, err := ch.Get(v, true); more || err != nil {
		t.Error("there is more:", err)
	}
	sessionMust(t, ch.ExchangeDelete(v, false, false))
	wants := streamOpen(t, streamDial(t, url))
	streamWantError(t, wants.ExchangeDeclarePassive(v, "direct", true, false, false, false, nil), amqp.NotFound)
}

// TestEmbeddedRestart: a broker that was killed comes back with what was acked, and
// the stream goes on.
func TestEmbeddedRestart(t *testing.T) {
	t.Parallel()
	const v, count = "logs.restart", 200
	s, p := embeddedLab(t)
	url := p.URL("guest", "guest", "/")
	ch := streamOpen(t, streamDial(t, url))
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	streamDeclare(t, ch, v, "direct")
	streamConfirm(t, ch)
	streamPublish(t, ch, streamKeyed(v, streamKeys("key", count)...)...)
	s.Kill()
	streamNext(t, closed, "end of the channel")
	sessionMust(t, s.Restart())
	daemon.Eventually(t, streamPatience, func() error {
		conn, err := amqp.Dial(url)
		if err != nil {
			return err
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		_, err = ch.QueueDeclarePassive(v, true, false, false, false, nil)
		return err
	})
	if got := embeddedConsume(t, url, v, count); len(got) != count {
		t.Errorf("%d different messages came, want %d", len(got), count)
	}
}

// TestEmbeddedFaults: through the proxy each publish has its fate, whatever the broker
// does with the confirms, and what is acked is there.
func TestEmbeddedFaults(t *testing.T) {
	t.Parallel()
	const v, count = "logs.faults", 400
	s, p := embeddedLab(t)
	ch := streamOpen(t, streamDial(t, p.URL("guest", "guest", "/")))
	streamDeclare(t, ch, v, "direct")
	streamConfirm(t, ch)
	s.SetFaults(fakebroker.Faults{NackEvery: 10, ConfirmDelay: 50 * time.Millisecond, Seed: 1})
	var confirms []*amqp.DeferredConfirmation
	for _, m := range streamKeyed(v, streamKeys("key", count)...) {
		c, err := ch.PublishWithDeferredConfirm(v, m.key, false, false, m.Publishing)
		sessionMust(t, err)
		confirms = append(confirms, c)
	}
	acked := 0
	for i, c := range confirms {
		select {
		case <-c.Done():
		case <-time.After(streamPatience):
			t.Fatal(fmt.Errorf("no confirm for publish %d", i))
		}
		if c.Acked() {
			acked++
		}
	}
	if acked > count*9/10 || acked < count/2 {
		t.Errorf("%d of %d are acked, want about 9 of 10", acked, count)
	}
	s.SetFaults(fakebroker.Faults{})
	q, err := ch.QueueDeclarePassive(v, true, false, false, false, nil)
	sessionMust(t, err)
	if q.Messages != acked {
		t.Errorf("%d messages are stored, and %d were acked", q.Messages, acked)
	}
}
