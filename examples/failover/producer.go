package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// keys are the keys that the producers send.
var keys = strings.Split("abcdefgh", "")

// pace is how often a producer sends a message of each key.
const pace = 50 * time.Millisecond

// confirmTime is how long a producer waits for a confirm.
const confirmTime = 30 * time.Second

// produce sends a message of each key, numbered, and the next ones when all are confirmed,
// until SIGTERM. What is not confirmed it sends again.
func produce(name, stream string, urls []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	number, due := 0, keys
	for n := 0; ctx.Err() == nil; n++ {
		err := produceOver(ctx, name, stream, urls[n%len(urls)], &number, &due)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			rest(ctx)
		}
	}
	event{who: name, what: ended}.say(os.Stdout)
	return nil
}

// produceOver does so over one connection. due are the keys whose message is not confirmed.
func produceOver(ctx context.Context, name, stream, url string, number *int, due *[]string) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for ctx.Err() == nil {
		if *due, err = send(ch, name, stream, *number, *due); err != nil {
			return err
		}
		if len(*due) == 0 {
			*number, *due = *number+1, keys
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// send publishes a message of each of some keys, and gives the keys of those that are not
// stored.
func send(ch *amqp.Channel, name, stream string, number int, keys []string) (due []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), confirmTime)
	defer cancel()
	confirms := make([]*amqp.DeferredConfirmation, len(keys))
	for i, key := range keys {
		event{who: name, what: sent, key: key, producer: name, number: number}.say(os.Stdout)
		confirms[i], err = ch.PublishWithDeferredConfirm(stream, key, true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, "%s %d", name, number)})
		if err != nil {
			return keys, err
		}
	}
	for i, c := range confirms {
		acked, failed := c.WaitContext(ctx)
		if !acked {
			due, err = append(due, keys[i]), errors.Join(err, failed)
			continue
		}
		event{who: name, what: stored, key: keys[i], producer: name, number: number}.say(os.Stdout)
	}
	if ch.IsClosed() {
		err = errors.Join(err, amqp.ErrClosed)
	}
	return due, err
}
