package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"amqproxy/test/broker"
)

// settleTime is how long shards may take to be in use again when all that was
// broken runs.
const settleTime = 90 * time.Second

// world is what all runs share.
type world struct {
	brokers []*broker.Node
	proxies []*proxy
	stream  *through
	apart   bool  // the brokers are in no cluster
	groups  bool  // the consumers are a group
	rate    int   // messages in a second
	runs    int   // so far; tells a run's messages from those of the runs before
	vhosts  int   // that were made for the plugin
	broken  error // why no further run would mean anything
}

func newWorld(ctx context.Context, o options) (*world, error) {
	w := &world{apart: o.apart, groups: o.groups, rate: o.rate}
	if err := w.start(ctx, o); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) start(ctx context.Context, o options) (err error) {
	options := broker.Options{Name: "rabbit"}
	if o.plugin {
		options.Plugins = []string{"rabbitmq_sharding", "rabbitmq_consistent_hash_exchange"}
	}
	start := broker.StartCluster
	if o.apart {
		start = broker.StartApart
	}
	if w.brokers, err = start(ctx, nodes, options); err != nil {
		return err
	}
	for range w.brokers {
		p, err := newProxy(o.proxy, o.definition)
		if p != nil {
			w.proxies = append(w.proxies, p)
		}
		if err != nil {
			return err
		}
	}
	if err := w.bootProxies(ctx); err != nil {
		return err
	}
	w.stream, err = newThrough(ctx, w)
	return err
}

// bootProxies boots them side by side, since one that finds nobody looks for others
// for seconds.
func (w *world) bootProxies(ctx context.Context) error {
	failed := make([]error, nodes)
	var booting sync.WaitGroup
	for i, p := range w.proxies {
		booting.Go(func() {
			if failed[i] = p.configure(w.brokers[i], w.proxies); failed[i] == nil {
				failed[i] = p.boot(ctx)
			}
		})
	}
	booting.Wait()
	return errors.Join(failed...)
}

func (w *world) close() (err error) {
	for _, p := range w.proxies {
		err = errors.Join(err, p.close())
	}
	for _, b := range w.brokers {
		err = errors.Join(err, b.Close())
	}
	return errors.Join(w.broken, err)
}
