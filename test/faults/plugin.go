package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// plugin is the stream as rabbitmq_sharding makes it, in a vhost of its own.
type plugin struct {
	world *world
	space string
	home  *homes
}

func newPlugin(ctx context.Context, w *world) (*plugin, error) {
	w.vhosts++
	p := &plugin{world: w, space: fmt.Sprintf("plugin-%d", w.vhosts)}
	node := w.brokers[0]
	if err := node.PutVHost(ctx, p.space); err != nil {
		return nil, err
	}
	policy := fmt.Sprintf(`{"shards-per-node": %d, "routing-key": "100"}`, perNode)
	if _, err := node.Ctl(ctx, "-p", p.space, "set_policy", "shards", `^shard\.`, policy, "--apply-to", "exchanges"); err != nil {
		return nil, err
	}
	conn, ch, err := open(ctx, node.URL(p.space))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := ch.ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil); err != nil {
		return nil, err
	}
	if err := p.settle(ctx); err != nil {
		return nil, err
	}
	p.home, err = p.findHomes(ctx, ch)
	return p, err
}

// findHomes sends a message with each key and looks on which node it arrives.
func (p *plugin) findHomes(ctx context.Context, ch *amqp.Channel) (*homes, error) {
	h := &homes{group: make([]int, keys)}
	type found struct{ key, node int }
	all, done := make(chan found), make(chan struct{})
	defer close(done)
	for node, b := range p.world.brokers {
		h.node, h.names = append(h.node, node), append(h.names, b.Name())
		for range perNode {
			conn, deliveries, err := subscribe(ctx, p.exit(node))
			if err != nil {
				return nil, err
			}
			defer conn.Close()
			go func() { // ends with the connection
				for d := range deliveries {
					f := found{-1, node}
					fmt.Sscanf(d.RoutingKey, "key-%d", &f.key)
					d.Ack(false)
					select {
					case all <- f:
					case <-done:
					}
				}
			}()
		}
	}
	for k := range keys {
		if err := ch.PublishWithContext(ctx, stream, routingKey(k), false, false, amqp.Publishing{}); err != nil {
			return nil, err
		}
	}
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	for range keys {
		select {
		case f := <-all:
			h.group[f.key] = f.node
		case <-late.C:
			return nil, errors.New("the plugin's shards do not give all keys back")
		}
	}
	return h, nil
}

// close deletes all that was made.
func (p *plugin) close(ctx context.Context) error {
	_, err := p.world.brokers[0].Ctl(ctx, "delete_vhost", p.space)
	return err
}

func (p *plugin) name() string  { return "plugin" }
func (p *plugin) vhost() string { return p.space }

// entrances are the brokers that nothing happens to.
func (p *plugin) entrances(victim int) (all []entrance) {
	for i := range p.world.brokers {
		if i != victim {
			all = append(all, entrance{p.exit(i), i})
		}
	}
	return all
}

func (p *plugin) exit(node int) string { return p.world.brokers[node].URL(p.space) }

func (p *plugin) homes() *homes { return p.home }

func (p *plugin) shardOf(node, index int) string {
	return fmt.Sprintf("sharding: %s - %s - %d", stream, p.world.brokers[node].Name(), index)
}

// settle waits until all shards run that there are. One that was deleted does not
// come back by itself.
func (p *plugin) settle(ctx context.Context) error {
	return eventually(ctx, settleTime, func() error {
		c, err := p.world.count(ctx, p.space)
		if err == nil && (c.down > 0 || c.queues < nodes*perNode && p.home == nil) {
			err = fmt.Errorf("of %d queues %d are down", c.queues, c.down)
		}
		return err
	})
}

func (p *plugin) away(context.Context) []int { return nil }
