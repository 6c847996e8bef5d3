package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
)

func killBroker(_ context.Context, r *run) error {
	r.broker().Kill()
	return nil
}

func killProxy(_ context.Context, r *run) error {
	r.world.proxies[r.Victim].kill()
	return nil
}

func stopBroker(ctx context.Context, r *run) error { return r.broker().Stop(ctx) }
func bootBroker(ctx context.Context, r *run) error { return r.broker().Boot(ctx) }
func pauseBroker(_ context.Context, r *run) error  { return r.broker().Pause() }
func resumeBroker(_ context.Context, r *run) error { return r.broker().Resume() }
func bootProxy(ctx context.Context, r *run) error  { return r.world.proxies[r.Victim].boot(ctx) }
func raiseAlarm(ctx context.Context, r *run) error {
	return r.world.watermark(ctx, r.broker(), "{absolute, 1000000}")
}
func clearAlarm(ctx context.Context, r *run) error {
	return r.world.watermark(ctx, r.broker(), normally)
}

// normally is how much memory a broker may use, and does not come near to.
const normally = `{absolute, "1GB"}`

// watermark sets how much memory a broker may use.
func (w *world) watermark(ctx context.Context, b *broker.Node, limit string) error {
	_, err := b.Eval(ctx, fmt.Sprintf("ok = vm_memory_monitor:set_vm_memory_high_watermark(%s)", limit))
	return err
}

// deleteShard deletes a shard of the victim's, past the proxies, when it is empty.
func deleteShard(ctx context.Context, r *run) error {
	queue := r.path.shardOf(r.Victim, r.rng.IntN(perNode))
	conn, err := amqp.Dial(r.broker().URL(r.path.vhost()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return eventually(ctx, 20*time.Second, func() error {
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		defer ch.Close()
		if _, err = ch.QueueDelete(queue, false, true, false); err == nil {
			r.rec.shardDeleted(queue, r.Victim)
		}
		return err
	})
}

// makeIdle declares queues on the victim that take part in nothing.
func (r *run) makeIdle(ctx context.Context) error {
	return r.eachIdle(ctx, func(ch *amqp.Channel, name string) error {
		_, err := ch.QueueDeclare(name, true, false, false, true, nil)
		return err
	})
}

func (r *run) dropIdle(ctx context.Context) error {
	return r.eachIdle(ctx, func(ch *amqp.Channel, name string) error {
		_, err := ch.QueueDelete(name, false, false, true)
		return err
	})
}

// eachIdle does something without an answer for each idle queue, until all of it was
// accepted: a broker that has just come back may not have all of its queues yet.
func (r *run) eachIdle(ctx context.Context, do func(*amqp.Channel, string) error) error {
	if r.fault.idle == 0 {
		return nil
	}
	conn, err := amqp.Dial(r.broker().URL(""))
	if err != nil {
		return err
	}
	defer conn.Close()
	return eventually(ctx, 20*time.Second, func() error {
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		for i := range r.fault.idle {
			if err := do(ch, fmt.Sprintf("idle %d of %s", i, r.broker().Name())); err != nil {
				return errors.Join(err, ch.Close())
			}
		}
		return ch.Close() // answered when all is done
	})
}
