package main

import (
	"context"

	amqp "github.com/rabbitmq/amqp091-go"
)

// consume reads a shard, and another one after each cut. It is exclusive: where two
// read one shard, the order of arrival says nothing and another shard has no reader.
func consume(ctx context.Context, url string, rec *record) {
	again(ctx, func() {
		cut, end := context.WithCancel(ctx)
		defer end()
		conn, deliveries, err := subscribe(cut, url)
		if err != nil {
			return
		}
		defer conn.Close()
		for d := range deliveries {
			rec.delivered(d.Body, d.Redelivered)
			if d.Ack(false) != nil {
				return
			}
		}
	})
}

// subscribe consumes from a shard that nobody else reads.
func subscribe(ctx context.Context, url string) (*amqp.Connection, <-chan amqp.Delivery, error) {
	conn, ch, err := open(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		conn.Close()
		return nil, nil, err
	}
	deliveries, err := ch.Consume(stream, "", false, true, false, false, nil)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, deliveries, nil
}
