package main

import (
	"context"
	"fmt"
)

// repair brings the world back to where a run can begin, after one that broke off in
// the midst of its fault.
func (w *world) repair(ctx context.Context) error {
	for _, b := range w.brokers {
		b.Resume()  // nothing to a node that is not paused
		b.Boot(ctx) // an error to one that runs; that all run is found out below
		w.watermark(ctx, b, normally)
	}
	for _, p := range w.proxies {
		if !p.running() {
			if err := p.boot(ctx); err != nil {
				return err
			}
		}
	}
	if err := w.stream.settle(ctx); err != nil {
		return err
	}
	return w.purge(ctx)
}

// purge empties the stream, so that the next run does not meet the messages of this.
func (w *world) purge(ctx context.Context) error {
	for i, s := range w.stream.shards {
		conn, ch, err := open(ctx, w.brokers[i/perNode].URL(w.stream.vhost()))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := ch.QueuePurge(s.Queue, false); err != nil {
			return fmt.Errorf("purge '%s': %w", s.Queue, err)
		}
	}
	return nil
}
