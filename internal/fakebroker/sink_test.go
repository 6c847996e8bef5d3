package fakebroker

import (
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/internal/keeper"
	"amqproxy/shard"
)

// startSink runs a Server that is a sink.
func startSink(t *testing.T) *Server {
	t.Helper()
	return start(t, func(s *Server) { s.Sink = true })
}

// TestSinkKeeper: the proxy's keeper finds here all that it asks of a broker.
func TestSinkKeeper(t *testing.T) {
	s := startSink(t)
	k := keeper.New(s.Addr())
	name := shard.Name{VHost: "/", Stream: "shard.a"}
	login := shard.Login{User: "u", Password: "p"}
	queues := []string{"q1", "q2"}
	if err := keeper.Ping(t.Context(), s.Addr()); err != nil {
		t.Error("ping:", err)
	}
	if there, err := k.Exists(t.Context(), name, login); !there || err != nil {
		t.Error("exists:", there, err)
	}
	if _, err := k.Make(t.Context(), name, queues, nil, login); err != nil {
		t.Error("make:", err)
	}
	if made, err := k.Heal(t.Context(), name, queues, nil, login); len(made) > 0 || err != nil {
		t.Error("heal:", made, err)
	}
	if counts, err := k.Count(t.Context(), "/", queues, login); len(counts) != 2 || counts[0].Missing || err != nil {
		t.Error("count:", counts, err)
	}
	if _, err := k.Purge(t.Context(), "/", queues, login); err != nil {
		t.Error("purge:", err)
	}
	if _, err := k.Delete(t.Context(), "/", queues, login); err != nil {
		t.Error("delete:", err)
	}
}

// TestSinkConfirms: every message is confirmed, in however many pieces it comes.
func TestSinkConfirms(t *testing.T) {
	ch := dial(t, startSink(t))
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	var last *amqp.DeferredConfirmation
	for i := range 1000 {
		var err error
		last, err = ch.PublishWithDeferredConfirmWithContext(t.Context(), "logs", "k", false, false, amqp.Publishing{Body: make([]byte, i*i/8)})
		if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-last.Done():
	case <-time.After(patience):
		t.Fatal("no confirm")
	}
	if !last.Acked() {
		t.Error("not acked")
	}
}

// TestSinkFlow: a proxy asks so whether all that it published was taken.
func TestSinkFlow(t *testing.T) {
	c := rawDial(t, startSink(t))
	c.login()
	c.send("1 channel.flow active=1", "1 channel.flow")
	c.wantText("1 channel.flow-ok active=1", "1 channel.flow-ok")
}

// TestFlood: so many deliveries as were asked for, of the size that was asked
// for, numbered one after the other.
func TestFlood(t *testing.T) {
	for _, size := range []int{0, 16, 200_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ch := dial(t, startSink(t))
			const count = 1000
			deliveries, err := ch.Consume("q", "c", true, false, false, false,
				amqp.Table{"x-flood": int32(count), "x-size": int32(size), "x-exchange": "logs"})
			if err != nil {
				t.Fatal(err)
			}
			for i := range uint64(count) {
				select {
				case d := <-deliveries:
					if d.DeliveryTag != i+1 || len(d.Body) != size || d.Exchange != "logs" || d.RoutingKey == "" {
						t.Fatalf("delivery %d: tag %d, %d octets, exchange %q, key %q", i+1, d.DeliveryTag, len(d.Body), d.Exchange, d.RoutingKey)
					}
				case <-time.After(patience):
					t.Fatalf("no delivery %d", i+1)
				}
			}
			if err := ch.Cancel("c", false); err != nil {
				t.Error(err)
			}
			if _, more := <-deliveries; more {
				t.Error("there are more")
			}
		})
	}
}

// TestEndlessFlood: it ends with its consumer.
func TestEndlessFlood(t *testing.T) {
	ch := dial(t, startSink(t))
	deliveries, err := ch.Consume("q", "c", true, false, false, false, amqp.Table{"x-flood": int32(-1), "x-size": int32(10)})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	enough := make(chan struct{})
	reading.Go(func() {
		n := 0
		for range deliveries {
			if n++; n == 10_000 {
				close(enough)
			}
		}
	})
	select {
	case <-enough:
	case <-time.After(patience):
		t.Error("not enough deliveries")
	}
	if err := ch.Cancel("c", false); err != nil {
		t.Error(err)
	}
	reading.Wait()
}

// TestEcho: what is published on a connection comes to its echo consumer.
func TestEcho(t *testing.T) {
	ch := dial(t, startSink(t))
	deliveries, err := ch.Consume("q", "", true, false, false, false, amqp.Table{"x-echo": true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		body := make([]byte, i*2000)
		if err := ch.Publish("logs", "key", false, false, amqp.Publishing{Body: body, MessageId: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		select {
		case d := <-deliveries:
			if d.MessageId != fmt.Sprint(i) || len(d.Body) != len(body) || d.Exchange != "logs" || d.RoutingKey != "key" {
				t.Fatalf("message %d came back as %s with %d octets", i, d.MessageId, len(d.Body))
			}
		case <-time.After(patience):
			t.Fatalf("message %d did not come back", i)
		}
	}
}

// TestSinkClose: a Server ends while it floods clients that read nothing.
func TestSinkClose(t *testing.T) {
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Sink = true
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve() })
	ch := dial(t, s)
	if _, err := ch.Consume("q", "", true, false, false, false, amqp.Table{"x-flood": int32(-1), "x-size": int32(1000)}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		s.Close()
		serving.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}
