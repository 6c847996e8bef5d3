package demo

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"
)

// prefetch is how many messages a consumer may hold.
const prefetch = 20

// consumer reads the stream as if it were one queue. It can be killed and begun again.
type consumer struct {
	client
	ledger *ledger

	lives atomic.Bool
	life  sync.WaitGroup
	end   context.CancelFunc // of the life; the story's own
}

// start begins a life of the consumer.
func (c *consumer) start(ctx context.Context) {
	ctx, c.end = context.WithCancel(ctx)
	c.lives.Store(true)
	c.life.Go(func() { c.live(ctx, c.consume) })
}

// kill ends it, with all that it holds and has not acknowledged.
func (c *consumer) kill() {
	c.lives.Store(false)
	c.end()
	c.life.Wait()
}

func (c *consumer) consume(ctx context.Context, ch *amqp.Channel) error {
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume(stream, c.name, false, false, false, false, nil)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case d, open := <-deliveries:
			if !open {
				return errors.New("the channel was closed")
			}
			c.take(d)
			if err := d.Ack(false); err != nil {
				return err
			}
		}
	}
}

func (c *consumer) take(d amqp.Delivery) {
	c.counted()
	var m message
	if err := json.Unmarshal(d.Body, &m); err != nil {
		c.ledger.strange()
		return
	}
	c.ledger.delivered(m.Key, m.Seq, d.Redelivered)
}
