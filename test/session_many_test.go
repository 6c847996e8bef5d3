package test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestSessionManyChannels: all 2047 channels that a connection may have work, and
// one more is refused as the broker refuses it.
func TestSessionManyChannels(t *testing.T) {
	t.Parallel()
	conn := streamDial(t, startPlain(t).url)
	channels := make([]*amqp.Channel, conn.Config.ChannelMax)
	if len(channels) != 2047 {
		t.Fatalf("%d channels are offered, want 2047", len(channels))
	}
	for i := range channels {
		channels[i] = streamOpen(t, conn)
	}
	if _, err := conn.Channel(); err == nil {
		t.Error("channel 2048 opened")
	}
	queue := sessionDeclare(t, channels[0], "", nil)
	deliveries, err := channels[1].Consume(queue, "", true, false, false, false, nil)
	sessionMust(t, err)
	for i, ch := range channels {
		sessionPut(t, ch, "", queue, fmt.Sprint(i))
	}
	seen := map[string]bool{}
	for range channels {
		seen[string(streamNext(t, deliveries, "a delivery").Body)] = true
	}
	if len(seen) != len(channels) {
		t.Errorf("%d different messages came, want %d", len(seen), len(channels))
	}
	for _, ch := range channels {
		sessionMust(t, ch.Close())
	}
	streamLives(t, streamOpen(t, conn))
}

// TestSessionManyConnections: 500 connections at once, each with a queue of its
// own that it publishes to and consumes from.
func TestSessionManyConnections(t *testing.T) {
	t.Parallel()
	const count = 500
	url := startPlain(t).url
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conns := make([]*amqp.Connection, count)
	errs := make([]error, count)
	each := func(do func(i int) error) {
		var all sync.WaitGroup
		for i := range count {
			all.Go(func() {
				if errs[i] == nil {
					errs[i] = do(i)
				}
			})
		}
		all.Wait()
		for i, err := range errs {
			if err != nil {
				t.Fatalf("connection %d of %d: %v", i, count, err)
			}
		}
	}
	each(func(i int) (err error) {
		conns[i], err = amqp.Dial(url)
		return err
	})
	each(func(i int) error { return sessionRound(ctx, conns[i], fmt.Sprintf("message %d", i)) })
	each(func(i int) error { return conns[i].Close() })
}

// sessionRound publishes messages to a queue of its own and consumes them.
func sessionRound(ctx context.Context, conn *amqp.Connection, body string) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	q, err := ch.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		return err
	}
	deliveries, err := ch.ConsumeWithContext(ctx, q.Name, "", false, true, false, false, nil)
	if err != nil {
		return err
	}
	const rounds = 10
	for i := range rounds {
		if err := ch.PublishWithContext(ctx, "", q.Name, false, false, amqp.Publishing{Body: fmt.Append(nil, body, i)}); err != nil {
			return err
		}
	}
	for i := range rounds {
		select {
		case d := <-deliveries:
			if string(d.Body) != fmt.Sprint(body, i) {
				return fmt.Errorf("got %q, want %q", d.Body, fmt.Sprint(body, i))
			}
			if err := d.Ack(false); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("delivery %d: %w", i, ctx.Err())
		}
	}
	return nil
}
