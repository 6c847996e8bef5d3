package test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
)

// TestSessionManyChannels: all 2047 channels that a connection may have work at
// once, and one more is refused as the broker refuses it.
func TestSessionManyChannels(t *testing.T) {
	t.Parallel()
	const count = 2047
	c := rawDial(t, sessionProxy(t, rabbit, "").Addr())
	c.login(rawLogin{vhost: rabbit.VHost(t)})
	c.send(`1 queue.declare queue="q" exclusive`, `1 basic.consume queue="q" consumer-tag="c" no-ack`)
	c.want(frame.QueueDeclareOk)
	c.want(frame.BasicConsumeOk)
	var opens, publishes []string
	for channel := 1; channel <= count; channel++ {
		if channel > 1 {
			opens = append(opens, fmt.Sprintf("%d channel.open", channel))
		}
		body := fmt.Sprint("from ", channel)
		publishes = append(publishes, fmt.Sprintf(`%d basic.publish routing-key="q"`, channel),
			fmt.Sprintf("%d header body-size=%d", channel, len(body)), fmt.Sprintf("%d body %q", channel, body))
	}
	c.send(opens...)
	opened := map[uint16]bool{}
	for range opens {
		opened[c.want(frame.ChannelOpenOk).Channel()] = true
	}
	c.send(publishes...)
	bodies := map[string]bool{}
	for range count {
		c.want(frame.BasicDeliver)
		_, body := c.message()
		bodies[string(body)] = true
	}
	if len(opened) != count-1 || len(bodies) != count {
		t.Errorf("%d channels opened and %d messages came, want %d and %d", len(opened), len(bodies), count-1, count)
	}
	c.send(fmt.Sprintf("%d channel.open", count+1))
	if got := c.want(frame.ConnectionClose).String(); !strings.Contains(got, "reply-code=530") {
		t.Errorf("channel %d: got %s, want connection.close 530", count+1, got)
	}
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
