package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// prefetch is how many messages a consumer may have that it has not acknowledged. It does so
// for as many as batch at once, or when batchTime is over.
const (
	prefetch  = 20
	batch     = 10
	batchTime = 50 * time.Millisecond
)

// retry is how long a process waits before it tries the next proxy.
const retry = 100 * time.Millisecond

// consumer reads the stream as if it were one queue.
type consumer struct {
	name, stream string
	handled      map[string]int // by key: here an application keeps what it knows of each
}

// consume reads until SIGTERM, over as many connections as it takes.
func consume(name, stream string, urls []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := &consumer{name: name, stream: stream, handled: map[string]int{}}
	for n := 0; ctx.Err() == nil; n++ {
		if err := c.session(ctx, urls[n%len(urls)]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			rest(ctx)
		}
	}
	event{who: name, what: ended}.say(os.Stdout)
	return nil
}

// rest waits a little, for a proxy that is away.
func rest(ctx context.Context) {
	late := time.NewTimer(retry)
	defer late.Stop()
	select {
	case <-late.C:
	case <-ctx.Done():
	}
}

// session reads over one connection. At the end of ctx it cancels, and settles what it has.
func (c *consumer) session(ctx context.Context, url string) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return err
	}
	mode := amqp.Table{"x-group-mode": "ordered"} // or be refused
	deliveries, err := ch.Consume(c.stream, c.name, false, false, false, false, mode)
	if err != nil {
		return err
	}
	event{who: c.name, what: reads}.say(os.Stdout)
	defer context.AfterFunc(ctx, func() { ch.Cancel(c.name, false) })()
	if err := c.read(deliveries); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return conn.Close()
	}
	return errors.New("the connection is gone")
}

// read handles what comes, and acknowledges several messages at once.
func (c *consumer) read(deliveries <-chan amqp.Delivery) error {
	late := time.NewTicker(batchTime)
	defer late.Stop()
	var held []amqp.Delivery
	for {
		select {
		case d, more := <-deliveries:
			if !more {
				return c.settle(held)
			}
			if err := c.handle(d); err != nil {
				return err
			}
			if held = append(held, d); len(held) < batch {
				continue
			}
		case <-late.C:
		}
		if err := c.settle(held); err != nil {
			return err
		}
		held = nil
	}
}

// settle acknowledges messages with the last of them.
func (c *consumer) settle(held []amqp.Delivery) error {
	for _, d := range held {
		e, _ := read(d)
		e.who, e.what = c.name, done
		e.say(os.Stdout)
	}
	if len(held) == 0 {
		return nil
	}
	return held[len(held)-1].Ack(true)
}

// handle does the work for one message.
func (c *consumer) handle(d amqp.Delivery) error {
	e, err := read(d)
	if err != nil {
		return err
	}
	e.who, e.what = c.name, got
	e.say(os.Stdout)
	c.handled[d.RoutingKey]++
	return nil
}

// read is what a message says of itself.
func read(d amqp.Delivery) (e event, err error) {
	e = event{key: d.RoutingKey, redelivered: d.Redelivered}
	if _, err := fmt.Sscanf(string(d.Body), "%s %d", &e.producer, &e.number); err != nil {
		return e, fmt.Errorf("a message that says %q: %w", d.Body, err)
	}
	return e, nil
}
