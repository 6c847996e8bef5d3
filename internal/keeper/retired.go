package keeper

import (
	"context"
	"errors"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
)

// Beyond finds shards that are there behind the last one that is wanted, up to the
// first gap. name gives the queue of an index.
func (k *Keeper) Beyond(ctx context.Context, vhost string, name func(index int) string, from int, login shard.Login) (queues []string, err error) {
	err = k.with(ctx, vhost, login, func(s *session) error {
		queues = nil
		for i := from; i <= shard.MaxShardsPerNode; i++ {
			ch, err := s.channel()
			if err != nil {
				return err
			}
			_, err = ch.QueueDeclarePassive(name(i), true, false, false, false, nil)
			if isCode(err, amqp.NotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			queues = append(queues, name(i))
		}
		return nil
	})
	return queues, err
}

// Unbind takes shards off the exchange of their stream. It does not mind if they are
// not bound, or if one of the two is gone.
func (k *Keeper) Unbind(ctx context.Context, name shard.Name, queues []string, login shard.Login) error {
	if len(queues) == 0 {
		return nil
	}
	return k.each(ctx, name.VHost, queues, login, func(ch *amqp.Channel, queue string) error {
		err := ch.QueueUnbind(queue, shard.BindingKey(queue), name.Stream, nil)
		if isCode(err, amqp.NotFound) {
			return nil
		}
		return err
	})
}

// DeleteIdle deletes a queue that has no consumers and no messages; false if it has
// some. Of unacknowledged messages the broker takes no notice.
func (k *Keeper) DeleteIdle(ctx context.Context, vhost, queue string, login shard.Login) (deleted bool, err error) {
	err = k.on(ctx, access{vhost: vhost, login: login, apart: true}, func(s *session) error {
		ch, err := s.channel()
		if err != nil {
			return err
		}
		_, err = ch.QueueDelete(queue, true, true, false)
		deleted = err == nil || noQueue(err)
		if deleted || isCode(err, amqp.PreconditionFailed) {
			return nil
		}
		return err
	})
	var r *shard.Refused
	if errors.As(err, &r) && r.Code == amqp.NotImplemented { // a quorum queue has no such conditions
		return k.deleteIdleQuorum(ctx, vhost, queue, login)
	}
	return deleted, err
}

// deleteIdleQuorum does so with a quorum queue. Its figures are 0 when its leader is
// slow to give them, so it is asked for a message, too.
func (k *Keeper) deleteIdleQuorum(ctx context.Context, vhost, queue string, login shard.Login) (deleted bool, err error) {
	if err := k.Led(ctx, vhost, queue, login); err != nil {
		return false, err
	}
	err = k.on(ctx, access{vhost: vhost, login: login, apart: true}, func(s *session) error {
		ch, err := s.channel()
		if err != nil {
			return err
		}
		found, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil || found.Messages > 0 || found.Consumers > 0 {
			return err
		}
		if _, there, err := ch.Get(queue, false); err != nil || there { // the end of the channel gives it back
			return err
		}
		_, err = ch.QueueDelete(queue, false, false, false)
		deleted = err == nil
		return err
	})
	return deleted, err
}
