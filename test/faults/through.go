package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
)

// through is the stream as the proxies make it.
type through struct {
	world  *world
	shards []shard.Shard // while nothing is wrong
	home   *homes
}

func newThrough(ctx context.Context, w *world) (*through, error) {
	t := &through{world: w}
	for _, b := range w.brokers {
		for i := range perNode {
			queue := shard.QueueName(shard.DefaultPrefix, stream, b.Name(), i)
			t.shards = append(t.shards, shard.Shard{Queue: queue, Node: b.Name(), Index: i, Weight: shard.DefaultWeight})
		}
	}
	t.home = &homes{}
	at := pick(t.shards)
	for i, s := range t.shards {
		t.home.names = append(t.home.names, s.Queue)
		t.home.node = append(t.home.node, i/perNode)
	}
	for _, queue := range at {
		t.home.group = append(t.home.group, slices.Index(t.home.names, queue))
	}
	conn, err := amqp.Dial(t.exit(0))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil); err != nil {
		return nil, err
	}
	return t, t.settle(ctx)
}

// pick is the queue of every key.
func pick(shards []shard.Shard) (queues []string) {
	table := shard.NewTable("", stream, &shard.Settings{}, shard.Declared{}, shards, nil)
	for k := range keys {
		queues = append(queues, table.Shards[table.Pick(shard.KeyHash([]byte(routingKey(k))))].Queue)
	}
	return queues
}

func (t *through) name() string  { return "amqproxy" }
func (t *through) vhost() string { return "/" }

func (t *through) entrances(int) (all []entrance) {
	for i := range t.world.proxies {
		all = append(all, entrance{t.exit(i), i})
	}
	return all
}

func (t *through) exit(node int) string {
	return "amqp://guest:guest@" + t.world.proxies[node].addr + "/"
}

func (t *through) homes() *homes { return t.home }

func (t *through) shardOf(node, index int) string { return t.shards[node*perNode+index].Queue }

func (t *through) settle(ctx context.Context) error {
	return errors.Join(t.settleTables(ctx), t.settleGroup(ctx))
}

func (t *through) settleTables(ctx context.Context) error {
	return eventually(ctx, settleTime, func() error {
		digests := map[string]bool{}
		for i, p := range t.world.proxies {
			streams, err := view[streamView](ctx, p, "streams")
			if err != nil {
				return err
			}
			if len(streams) != 1 || streams[0].Shards != len(t.shards) {
				return fmt.Errorf("proxy %d has not all shards in use: %+v", i, streams)
			}
			digests[streams[0].Digest] = true
		}
		if len(digests) > 1 {
			return fmt.Errorf("the proxies send keys to different shards")
		}
		return nil
	})
}

// settleGroup waits until no shard has a consumer that is not active, if there are any.
func (t *through) settleGroup(ctx context.Context) error {
	if !t.world.groups {
		return nil
	}
	return eventually(ctx, settleTime, func() error {
		for i, p := range t.world.proxies {
			groups, err := view[groupView](ctx, p, "groups")
			if err != nil {
				return err
			}
			if len(groups) != 1 {
				return fmt.Errorf("proxy %d shows %d groups, want one", i, len(groups))
			}
			for _, s := range groups[0].Shards {
				if s.Consumer != "" && s.State != "active" {
					return fmt.Errorf("proxy %d shows that %s is %s at %s", i, s.Queue, s.State, s.Consumer)
				}
			}
		}
		return nil
	})
}

func (t *through) away(ctx context.Context) (moved []int) {
	for _, p := range t.world.proxies {
		rows, err := view[shardView](ctx, p, "shards")
		if err != nil {
			continue // it is the victim
		}
		used := slices.DeleteFunc(slices.Clone(t.shards), func(s shard.Shard) bool {
			return !slices.Contains(rows, shardView{Queue: s.Queue, Ready: true})
		})
		if len(used) == 0 || len(used) == len(t.shards) {
			continue
		}
		for k, queue := range pick(used) {
			if queue != t.home.names[t.home.group[k]] {
				moved = append(moved, k)
			}
		}
	}
	return moved
}
