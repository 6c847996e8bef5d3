package keeper

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
)

// Exists tells whether the exchange is there, of whatever type.
func (k *Keeper) Exists(ctx context.Context, name shard.Name, login shard.Login) (bool, error) {
	exists := true
	err := k.with(ctx, name.VHost, login, func(s *session) error {
		ch, err := s.channel()
		if err != nil {
			return err
		}
		err = ch.ExchangeDeclarePassive(name.Stream, "direct", true, false, false, false, nil)
		if isCode(err, amqp.NotFound) {
			exists, err = false, nil
		}
		return err
	})
	return exists, err
}

// ErrOtherExchange means that the exchange of a stream is there with another type
// or other flags.
var ErrOtherExchange = errors.New("the exchange is no stream's")

// Make makes the exchange of a stream and its shards, binds them, and proves with
// a probe that nothing else takes messages from the exchange. Shards that exist
// are taken as they are: differences tells in the broker's words how they differ
// from arguments.
func (k *Keeper) Make(ctx context.Context, name shard.Name, queues []string, arguments map[string]any, login shard.Login) (differences []string, err error) {
	err = k.with(ctx, name.VHost, login, func(s *session) error {
		ch, err := s.channel()
		if err != nil {
			return err
		}
		err = ch.ExchangeDeclare(name.Stream, "direct", true, false, false, false, nil)
		if isCode(err, amqp.PreconditionFailed) {
			return errors.Join(refused(err), ErrOtherExchange)
		}
		if err != nil {
			return err
		}
		for _, q := range queues {
			d, err := s.declareShard(q, arguments)
			if err != nil {
				return err
			}
			if d != "" {
				differences = append(differences, d)
			}
			if ch, err = s.channel(); err != nil {
				return err
			}
			if err := ch.QueueBind(q, shard.BindingKey(q), name.Stream, false, nil); err != nil {
				return err
			}
		}
		return s.probe(ctx, name.Stream)
	})
	return differences, err
}

// Remove deletes the exchange of a stream, and leaves one alone that is none.
func (k *Keeper) Remove(ctx context.Context, name shard.Name, login shard.Login) error {
	return k.with(ctx, name.VHost, login, func(s *session) error {
		ch, err := s.channel()
		if err != nil {
			return err
		}
		err = ch.ExchangeDeclare(name.Stream, "direct", true, false, false, false, nil)
		if isCode(err, amqp.PreconditionFailed) {
			return nil
		}
		if err != nil {
			return err
		}
		return ch.ExchangeDelete(name.Stream, false, false)
	})
}

// Heal makes and binds shards again that are gone, and tells which were. Where
// all is well it costs two questions a shard. A missing exchange is a refusal.
func (k *Keeper) Heal(ctx context.Context, name shard.Name, queues []string, arguments map[string]any, login shard.Login) (made []string, err error) {
	err = k.with(ctx, name.VHost, login, func(s *session) error {
		for _, q := range queues {
			ch, err := s.channel()
			if err != nil {
				return err
			}
			_, err = ch.QueueDeclarePassive(q, true, false, false, false, nil)
			if isCode(err, amqp.NotFound) {
				made = append(made, q)
				_, err = s.declareShard(q, arguments)
			}
			if err != nil {
				return err
			}
			if ch, err = s.channel(); err != nil {
				return err
			}
			if err := ch.QueueBind(q, shard.BindingKey(q), name.Stream, false, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return made, err
}

// declareShard declares a shard, or finds the one that is there.
func (s *session) declareShard(queue string, arguments map[string]any) (difference string, err error) {
	args := amqp.Table{"x-queue-master-locator": "client-local"}
	if arguments["x-queue-type"] == "quorum" {
		args = amqp.Table{"x-queue-leader-locator": "client-local"}
	}
	for k, v := range arguments {
		args[k] = v
	}
	ch, err := s.channel()
	if err != nil {
		return "", err
	}
	_, err = ch.QueueDeclare(queue, true, false, false, false, args)
	if !isCode(err, amqp.PreconditionFailed) {
		return "", err
	}
	differs := err
	if ch, err = s.channel(); err != nil {
		return "", err
	}
	_, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if isCode(err, amqp.NotFound) { // it was not there: the broker refuses the arguments as such
		return "", differs
	}
	return differs.Error(), err
}

// probe publishes a mandatory message with a key that nobody can have bound. It
// must come back: if not, something takes messages that no shard got, and their
// loss would be confirmed.
func (s *session) probe(ctx context.Context, exchange string) error {
	ch, err := s.channel()
	if err != nil {
		return err
	}
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, "amqproxy-probe:"+rand.Text(), true, false, amqp.Publishing{Expiration: "0"})
	if err != nil {
		return err
	}
	if _, err := confirm.WaitContext(ctx); err != nil {
		return fmt.Errorf("the probe got no answer: %w", err)
	}
	// The broker sends the return before the ack, so it is here already.
	select {
	case <-returns:
		return nil
	default:
		return &shard.Refused{Code: amqp.PreconditionFailed, Text: fmt.Sprintf(
			"exchange '%s' is unsafe: it took a message that is for no shard (is an alternate exchange set by a policy of the broker?)", exchange)}
	}
}

// Counts are the broker's figures of one queue.
type Counts struct {
	Messages, Consumers int
	Missing             bool // there is no such queue, or its node is down
	Gone                bool // there is no such queue
}

// Count asks for the figures of queues, in their order.
func (k *Keeper) Count(ctx context.Context, vhost string, queues []string, login shard.Login) ([]Counts, error) {
	counts := make([]Counts, len(queues))
	err := k.with(ctx, vhost, login, func(s *session) error {
		for i, q := range queues {
			ch, err := s.channel()
			if err != nil {
				return err
			}
			found, err := ch.QueueDeclarePassive(q, true, false, false, false, nil)
			switch {
			case isCode(err, amqp.NotFound):
				counts[i] = Counts{Missing: true, Gone: noQueue(err)}
			case err != nil:
				return err
			default:
				counts[i] = Counts{Messages: found.Messages, Consumers: found.Consumers}
			}
		}
		return nil
	})
	return counts, err
}

// Knows tells whether the broker knows any of these queues: those of a node that is down
// in its cluster, too.
func (k *Keeper) Knows(ctx context.Context, vhost string, queues []string, login shard.Login) (bool, error) {
	counts, err := k.Count(ctx, vhost, queues, login)
	return slices.ContainsFunc(counts, func(c Counts) bool { return !c.Gone }), err
}

// noQueue tells a queue that is not there from one whose node is down: only the
// broker's text does.
func noQueue(err error) bool {
	return isCode(err, amqp.NotFound) && strings.Contains(err.Error(), "NOT_FOUND - no queue")
}

// Purge empties queues and tells how many messages they held.
func (k *Keeper) Purge(ctx context.Context, vhost string, queues []string, login shard.Login) (messages int, err error) {
	err = k.each(ctx, vhost, queues, login, func(ch *amqp.Channel, queue string) error {
		n, err := ch.QueuePurge(queue, false)
		messages += n
		return err
	})
	return messages, err
}

// Delete deletes queues and tells how many messages they held.
func (k *Keeper) Delete(ctx context.Context, vhost string, queues []string, login shard.Login) (messages int, err error) {
	err = k.each(ctx, vhost, queues, login, func(ch *amqp.Channel, queue string) error {
		n, err := ch.QueueDelete(queue, false, false, false)
		messages += n
		return err
	})
	return messages, err
}

// each does something to every queue; one that fails does not spare the others.
func (k *Keeper) each(ctx context.Context, vhost string, queues []string, login shard.Login, do func(*amqp.Channel, string) error) error {
	return k.with(ctx, vhost, login, func(s *session) error {
		var first error
		for _, q := range queues {
			ch, err := s.channel()
			if err != nil {
				return errors.Join(first, err)
			}
			if err := do(ch, q); err != nil && first == nil {
				first = err
			}
		}
		return first
	})
}
