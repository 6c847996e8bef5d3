package fakebroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const patience = 10 * time.Second

// start runs a Server for a test.
func start(t *testing.T, set ...func(*Server)) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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

func connect(t *testing.T, s *Server) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial("amqp://guest:guest@" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func open(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// dial opens a channel on a connection of its own.
func dial(t *testing.T, s *Server) *amqp.Channel {
	t.Helper()
	return open(t, connect(t, s))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode wants an error of the broker with this code.
func wantCode(t *testing.T, err error, code int) {
	t.Helper()
	var e *amqp.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want an error %d", err, code)
	}
}

// declare makes a queue and binds it to exchanges, by the key.
func declare(t *testing.T, ch *amqp.Channel, name string, args amqp.Table) string {
	t.Helper()
	q, err := ch.QueueDeclare(name, true, false, false, false, args)
	must(t, err)
	return q.Name
}

// put publishes messages to a queue, which is theirs when it returns.
func put(t *testing.T, ch *amqp.Channel, queue string, bodies ...string) {
	t.Helper()
	for _, b := range bodies {
		must(t, ch.Publish("", queue, false, false, amqp.Publishing{Body: []byte(b)}))
	}
	answered(t, ch)
}

// answered asks for something, so that all that was sent before is done.
func answered(t *testing.T, ch *amqp.Channel) {
	t.Helper()
	must(t, ch.ExchangeDeclarePassive("amq.direct", "direct", true, false, false, false, nil))
}

// bodies gets all that is in a queue.
func bodies(t *testing.T, ch *amqp.Channel, queue string) string {
	t.Helper()
	out := []string{}
	for {
		d, ok, err := ch.Get(queue, true)
		must(t, err)
		if !ok {
			return fmt.Sprint(out)
		}
		out = append(out, string(d.Body))
	}
}

func wantBodies(t *testing.T, ch *amqp.Channel, queue string, want ...string) {
	t.Helper()
	if got := bodies(t, ch, queue); got != fmt.Sprint(want) {
		t.Errorf("%s holds %s, want %v", queue, got, want)
	}
}

// next is the next value of a channel, which must come.
func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case v, ok := <-from:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return v
	case <-late.C:
		t.Fatal("nothing comes")
	}
	panic("unreachable")
}

// wantNext wants the next deliveries, and none behind them that is here already.
func wantNext(t *testing.T, from <-chan amqp.Delivery, want ...string) (last amqp.Delivery) {
	t.Helper()
	for _, w := range want {
		last = next(t, from)
		if got := string(last.Body); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
	return last
}

// wantNone wants no delivery: whatever was to come has come when ch has an answer.
func wantNone(t *testing.T, ch *amqp.Channel, from <-chan amqp.Delivery) {
	t.Helper()
	answered(t, ch)
	select {
	case d := <-from:
		t.Fatalf("got %q, want nothing", d.Body)
	default:
	}
}

// eventually polls until check gives nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}
