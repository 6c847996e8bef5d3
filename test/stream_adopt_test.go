package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// TestStreamPublishersBeforeDeclare: publishers that try until the stream is there
// lose nothing: what is acked is in a shard, from the first ack on.
func TestStreamPublishersBeforeDeclare(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"early": "{shards-per-node: 2}"})
	const streams, publishers = 25, 4
	var conns []*amqp.Connection
	for range publishers {
		conns = append(conns, l.dial(t))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*streamPatience)
	defer cancel()
	declarer := l.dial(t)
	for i := range streams {
		v := fmt.Sprint("early.", i)
		tried := make(chan struct{}, publishers)
		var publishing sync.WaitGroup
		for p, conn := range conns {
			publishing.Go(func() {
				for attempt := 0; ; attempt++ {
					err := streamTryOnce(ctx, conn, v, fmt.Sprint("p", p))
					if attempt == 0 {
						tried <- struct{}{}
					}
					if err == nil {
						if attempt == 0 {
							t.Error("a message was acked before there was an exchange")
						}
						return
					}
					if e := (*amqp.Error)(nil); !errors.As(err, &e) || e.Code != amqp.NotFound {
						t.Errorf("publish before the declare: %v, want 404", err)
						return
					}
				}
			})
		}
		for range publishers {
			<-tried
		}
		streamDeclare(t, streamOpen(t, declarer), v, "topic")
		publishing.Wait()
		if where := l.drainShards(t, v, 2); len(where) != publishers {
			t.Errorf("the shards of %s hold %v, want a message of each of the %d publishers, who have their acks", v, where, publishers)
		}
	}
}

// errNacked is the end of a publish that was nacked.
var errNacked = errors.New("nacked")

// streamTryOnce publishes on a channel of its own and gives the broker's answer.
func streamTryOnce(ctx context.Context, conn *amqp.Connection, v, body string) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	ctx, cancel := context.WithTimeout(ctx, streamPatience)
	defer cancel()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 1))
	if err := ch.Confirm(false); err != nil {
		return err
	}
	if err := ch.PublishWithContext(ctx, v, body, false, false, amqp.Publishing{Body: []byte(body)}); err != nil {
		return err
	}
	select {
	case c, open := <-confirms:
		switch {
		case open && c.Ack:
			return nil
		case open:
			return errNacked
		}
		return <-closed
	case e := <-closed:
		return e
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestStreamAppearsPastTheProxy: an exchange that is made past the proxy, after a
// client asked for it in vain.
func TestStreamAppearsPastTheProxy(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"app": "{shards-per-node: 2}"})
	const v = "app.a"
	passive := func() error {
		return l.channel(t).ExchangeDeclarePassive(v, "direct", true, false, false, false, nil)
	}
	streamWantError(t, passive(), amqp.NotFound)
	streamMust(t, l.direct(t).ExchangeDeclare(v, "direct", true, false, false, false, nil))
	streamMust(t, passive())
	l.publish(t, streamKeyed(v, "acked")...)
	if where := l.drainShards(t, v, 2); len(where) != 1 {
		t.Errorf("the shards hold %d messages, want the one that was acked", len(where))
	}
}

// TestStreamAdoptedUnsafe: a proxy that remembers nothing refuses a stream that is
// not safe as one that has made it does.
func TestStreamAdoptedUnsafe(t *testing.T) {
	t.Parallel()
	first := startStreams(t, map[string]string{"unsafe": "{shards-per-node: 2}"})
	const v = "unsafe.a"
	first.declare(t, v)
	direct := first.direct(t)
	if _, err := direct.QueueDeclare("swallow", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	streamMust(t, direct.QueueBind("swallow", "", "amq.fanout", false, nil))
	declareBrokerPolicy(t, first, "set_policy", "swallow", `^unsafe\.`, `{"alternate-exchange": "amq.fanout"}`)
	second := first.another(t)
	err := streamTryOnce(t.Context(), second.dial(t), v, "k")
	streamWantError(t, err, amqp.PreconditionFailed, v)
	if q, err := direct.QueueDeclarePassive("swallow", true, false, false, false, nil); err != nil || q.Messages != 0 {
		t.Errorf("the alternate exchange took %d messages (%v), want the publisher to be refused", q.Messages, err)
	}
	declareBrokerPolicy(t, first, "clear_policy", "swallow")
	daemon.Eventually(t, streamPatience, func() error { return streamTryOnce(t.Context(), second.dial(t), v, "k") })
	if where := second.drainShards(t, v, 2); len(where) != 1 {
		t.Errorf("the shards hold %d messages, want the one that was acked", len(where))
	}
}

// TestDeclareImpossibleArguments: an argument that only the broker finds fault with
// is named in the error.
func TestDeclareImpossibleArguments(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"arg": "{queue-arguments: {x-message-ttl: 99999999999999}}"})
	declareRefused(t, l.dial(t), "arg.a", declareRequest{kind: "topic"}, amqp.PreconditionFailed, "arg.a", "x-message-ttl")
}

// TestStreamPublishersAgainstDelete: while others delete and declare the stream, a
// publisher hears an error or has its message in a shard.
func TestStreamPublishersAgainstDelete(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"del": "{shards-per-node: 2}"})
	const v, publishers = "del.a", 3
	l.declare(t, v)
	ctx, stop := context.WithTimeout(t.Context(), 2*streamPatience)
	defer stop()
	var publishing, changing sync.WaitGroup
	acked := make([][]string, publishers)
	for p := range publishers {
		conn := l.dial(t)
		publishing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				body := fmt.Sprintf("%d-%d", p, i)
				err := streamTryOnce(t.Context(), conn, v, body)
				if e := (*amqp.Error)(nil); err == nil {
					acked[p] = append(acked[p], body)
				} else if errors.Is(err, errNacked) {
					continue // it came between a declare and its shards: not stored, and said so
				} else if !errors.As(err, &e) || e.Code != amqp.NotFound && e.Code != amqp.PreconditionFailed || !strings.Contains(e.Reason, v) {
					t.Errorf("publish: %v, want an ack, or 404 or 406 that names %s", err, v)
					return
				}
			}
		})
	}
	for _, change := range []func(*amqp.Channel) error{
		func(ch *amqp.Channel) error { return ch.ExchangeDelete(v, false, false) },
		func(ch *amqp.Channel) error { return ch.ExchangeDeclare(v, "topic", true, false, false, false, nil) },
	} {
		conn := l.dial(t)
		changing.Go(func() {
			for range 60 {
				if ch, err := conn.Channel(); err != nil {
					t.Error(err)
				} else {
					change(ch) // a declare may lose against a delete
					ch.Close()
				}
			}
		})
	}
	changing.Wait()
	stop()
	publishing.Wait()
	where, lost, count := l.drainShards(t, v, 2), 0, 0
	for _, bodies := range acked {
		for _, body := range bodies {
			count++
			if _, stored := where[body]; !stored {
				lost++
			}
		}
	}
	if lost > 0 || count == 0 {
		t.Errorf("%d of %d messages were acked and are in no shard", lost, count)
	}
}
