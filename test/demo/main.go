// Command demo shows a stream at work: it starts a RabbitMQ node and an amqproxy
// beside it, both on loopback ports of their own, publishes keyed messages with
// an ordinary client library, consumes them, and says which shard got what and
// whether all arrived. It cleans up behind itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
)

const (
	stream    = "shard.logs_stream"
	shards    = 3
	messages  = 10_000
	keys      = 500
	consumers = shards // one for each shard: amqproxy gives each its own
	timeout   = time.Minute
)

func main() {
	proxy := flag.String("proxy", "bin/amqproxy", "the amqproxy binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *proxy); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string) (err error) {
	fmt.Println("starting RabbitMQ (some seconds) ...")
	rabbit, err := broker.Start(ctx, broker.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rabbit.Close()) }()
	proxy, err := startProxy(ctx, binary, rabbit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.close()) }()
	fmt.Printf("  RabbitMQ  %s\n  amqproxy  %s   <- clients connect here\n\n", rabbit.Addr(), proxy.addr)

	conn, err := amqp.Dial("amqp://guest:guest@" + proxy.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := declare(conn); err != nil {
		return err
	}
	began := time.Now()
	if err := publish(ctx, conn); err != nil {
		return err
	}
	fmt.Printf("published  %d messages with %d keys to exchange '%s', all confirmed, in %s\n",
		messages, keys, stream, time.Since(began).Round(time.Millisecond))
	if err := showShards(rabbit); err != nil {
		return err
	}
	got := newTally()
	var reading sync.WaitGroup
	for i := range consumers {
		deliveries, err := consume(conn, fmt.Sprintf("consumer-%d", i+1))
		if err != nil {
			return err
		}
		reading.Go(func() { got.read(deliveries) })
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = got.wait(waiting)
	conn.Close()
	reading.Wait()
	if err != nil {
		return err
	}
	return got.report()
}

// declare is what any application does that publishes: it declares its exchange.
func declare(conn *amqp.Connection) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	if err := ch.ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil); err != nil {
		return err
	}
	fmt.Printf("declared   exchange '%s': amqproxy has made %d shard queues\n", stream, shards)
	return nil
}

// showShards asks the broker itself, past the proxy, what is where.
func showShards(rabbit *broker.Node) error {
	conn, err := amqp.Dial(rabbit.URL("/"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	for i := range shards {
		name := fmt.Sprintf("stream: %s - %s - %d", stream, rabbit.Name(), i)
		q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		if err != nil {
			return err
		}
		fmt.Printf("             %5d messages in queue '%s'\n", q.Messages, q.Name)
	}
	return nil
}

func consume(conn *amqp.Connection, tag string) (<-chan amqp.Delivery, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Qos(200, 0, false); err != nil {
		return nil, err
	}
	return ch.Consume(stream, tag, false, false, false, false, nil)
}

func publish(ctx context.Context, conn *amqp.Connection) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirms := make([]*amqp.DeferredConfirmation, messages)
	for i := range messages {
		confirms[i], err = ch.PublishWithDeferredConfirmWithContext(ctx, stream, fmt.Sprintf("key-%d", i%keys), true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: fmt.Append(nil, i)})
		if err != nil {
			return err
		}
	}
	for i, c := range confirms {
		if acked, err := c.WaitContext(ctx); err != nil || !acked {
			return fmt.Errorf("message %d was not confirmed: %v", i, err)
		}
	}
	return nil
}

// tally is who got what.
type tally struct {
	all chan struct{} // closed when every message was delivered

	mu       sync.Mutex
	seen     map[string]bool            // message
	by       map[string]int             // consumer → messages
	keys     map[string]map[string]bool // consumer → keys
	repeated int
}

func newTally() *tally {
	return &tally{all: make(chan struct{}), seen: map[string]bool{}, by: map[string]int{}, keys: map[string]map[string]bool{}}
}

func (t *tally) read(deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		t.add(d)
		if err := d.Ack(false); err != nil {
			return
		}
	}
}

func (t *tally) add(d amqp.Delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[string(d.Body)] {
		t.repeated++
		return
	}
	t.seen[string(d.Body)] = true
	t.by[d.ConsumerTag]++
	if t.keys[d.ConsumerTag] == nil {
		t.keys[d.ConsumerTag] = map[string]bool{}
	}
	t.keys[d.ConsumerTag][d.RoutingKey] = true
	if len(t.seen) == messages {
		close(t.all)
	}
}

func (t *tally) wait(ctx context.Context) error {
	select {
	case <-t.all:
		return nil
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		return fmt.Errorf("only %d of %d messages arrived: %w", len(t.seen), messages, ctx.Err())
	}
}

// report prints what came and checks what was promised.
func (t *tally) report() error {
	owners := map[string]int{}
	fmt.Printf("consumed   %d messages from virtual queue '%s':\n", len(t.seen), stream)
	for _, tag := range slices.Sorted(maps.Keys(t.by)) {
		fmt.Printf("             %5d messages, %3d keys by %s\n", t.by[tag], len(t.keys[tag]), tag)
		for k := range t.keys[tag] {
			owners[k]++
		}
	}
	for k, n := range owners {
		if n != 1 {
			return fmt.Errorf("key %s came from %d shards", k, n)
		}
	}
	if len(t.by) != consumers {
		return fmt.Errorf("%d of %d consumers got messages", len(t.by), consumers)
	}
	fmt.Printf("\nall %d messages arrived, %d repeated, each of the %d keys on one shard\n", len(t.seen), t.repeated, len(owners))
	return nil
}
