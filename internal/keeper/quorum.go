package keeper

import (
	"context"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
)

// Led returns nil when a quorum queue has a leader that a majority follows. Without
// one the broker does not answer, so Led waits until there is one, or for ctx.
//
// It consumes with no credit, which no message comes of: a declare or a bind is
// answered without a leader too, and a get or a purge without one ends the whole
// connection. Not for a queue with a single active consumer: the question would be
// that consumer.
func (k *Keeper) Led(ctx context.Context, vhost, queue string, login shard.Login) error {
	return k.on(ctx, access{vhost: vhost, login: login, apart: true}, func(s *session) error {
		ch, err := s.channel()
		if err != nil {
			return err
		}
		const tag = "amqproxy asks for a leader"
		noCredit := amqp.Table{"x-credit": amqp.Table{"credit": int64(0), "drain": false}}
		if _, err := ch.Consume(queue, tag, false, false, false, false, noCredit); err != nil {
			return err
		}
		return ch.Cancel(tag, false)
	})
}
