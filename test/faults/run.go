package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"amqproxy/test/broker"
)

const (
	tail        = 50               // acks of each group after it
	confirmTime = 30 * time.Second // until confirms that are due are given up
	drainTime   = 60 * time.Second
	quietTime   = time.Second // without a delivery, of a stream that is empty
)

// run is one fault under load.
type run struct {
	result
	world *world
	path  path
	fault fault
	rng   *rand.Rand
	seed  uint64
	rec   *record
	load  *traffic
}

func newRun(w *world, p path, f fault, seed uint64) *run {
	h := fnv.New64a()
	h.Write([]byte(f.name))
	w.runs++
	r := &run{world: w, path: p, fault: f, seed: seed, rng: rand.New(rand.NewPCG(seed, h.Sum64())), rec: newRecord(w.runs, publishers, p.homes())}
	r.result = result{Fault: f.name, Path: p.name(), Seed: seed, Victim: r.rng.IntN(nodes), Counts: true, Ordered: w.groups && f.order}
	return r
}

func (r *run) broker() *broker.Node { return r.world.brokers[r.Victim] }

// do does the run. What went wrong with it, beside messages, is in Error.
func (r *run) do(ctx context.Context) {
	began := time.Now()
	if err := r.steps(ctx); err != nil {
		r.Error = err.Error()
	}
	r.rec.tally(&r.tally)
	all, spared := r.rec.gaps.worst(r.path.homes().struck(r.fault.hits, r.Victim))
	r.Gap, r.GapSpared = all.Seconds(), -1
	if spared >= 0 {
		r.GapSpared = spared.Seconds()
	}
	r.Took = time.Since(began).Seconds()
}

func (r *run) steps(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	r.load = startTraffic(ctx, r.world, r.path, r.rec, r.Victim, r.seed)
	defer r.load.close()
	watch := r.watchKeys(ctx)
	defer watch()
	if err := r.strike(ctx); err != nil {
		return err
	}
	if err := r.heal(ctx); err != nil {
		return err
	}
	watch()
	return errors.Join(r.drain(ctx), r.dropIdle(ctx))
}

// prepare has the victim write down which queues it has: RabbitMQ may lose one in a
// kill that is younger than 2 s.
func (r *run) prepare(ctx context.Context) error {
	if err := r.path.settle(ctx); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	if err := r.makeIdle(ctx); err != nil {
		return err
	}
	return r.broker().Sync(ctx)
}

// strike waits until enough is under way, and does what the fault does.
func (r *run) strike(ctx context.Context) error {
	warmth := max(r.world.rate*2/3, 1) // acks of two thirds of a second, and as many more by chance
	if err := r.acks(ctx, 0, warmth+r.rng.IntN(warmth)); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	if r.fault.kill {
		r.load.burst(true)
		defer r.load.burst(false)
		eventually(ctx, 10*time.Second, r.full) // or it does not count
	}
	r.Unconfirmed = r.atVictim()
	r.Counts = !r.fault.kill || r.Unconfirmed >= enough
	r.rec.strike()
	if err := r.fault.do(ctx, r); err != nil {
		return fmt.Errorf("the fault: %w", err)
	}
	return nil
}

func (r *run) full() error {
	if r.atVictim() < enough {
		return errors.New("not enough is unconfirmed")
	}
	return nil
}

// atVictim is what is unconfirmed at the victim: for its shards, or in its proxy.
func (r *run) atVictim() int {
	if r.fault.hits == oneProxy {
		return int(r.load.byEntrance[r.Victim].Load())
	}
	return int(r.load.byNode[r.Victim].Load())
}

// heal puts the fault right, when it has lasted, and waits until all is as before.
func (r *run) heal(ctx context.Context) error {
	over := time.NewTimer(r.fault.hold)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.fault.undo != nil {
		if err := r.fault.undo(ctx, r); err != nil {
			return fmt.Errorf("putting it right: %w", err)
		}
	}
	healed := time.Now()
	if err := r.path.settle(ctx); err != nil {
		return fmt.Errorf("after the fault: %w", err)
	}
	r.Settled = time.Since(healed).Seconds()
	if err := r.acks(ctx, tail, 0); err != nil {
		return fmt.Errorf("after the fault: %w", err)
	}
	return nil
}

// acks waits for so many more of each group, and in all.
func (r *run) acks(ctx context.Context, each, all int) error {
	before, sum := r.rec.confirms()
	return eventually(ctx, confirmTime, func() error {
		now, total := r.rec.confirms()
		if total-sum < all {
			return fmt.Errorf("%d acks of %d came", total-sum, all)
		}
		for g, n := range now {
			if n-before[g] < each {
				return fmt.Errorf("%d acks of %d came for keys of '%s'", n-before[g], each, r.path.homes().names[g])
			}
		}
		return nil
	})
}

// drain ends publishing and reads until there is nothing.
func (r *run) drain(ctx context.Context) error {
	r.rec.endGaps()
	r.load.endPublishing(confirmTime)
	return eventually(ctx, drainTime, func() error {
		if q := r.rec.quiet(); q < quietTime {
			return errors.New("messages still come")
		}
		c, err := r.world.count(ctx, r.path.vhost())
		if err == nil && c.messages+c.down > 0 {
			err = fmt.Errorf("%d messages are not read, and %d queues are down", c.messages, c.down)
		}
		return err
	})
}

// watchKeys looks again and again which keys do not go home, until the function that
// it gives is called.
func (r *run) watchKeys(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		moved := map[int]bool{}
		defer func() { r.Moved = len(moved) }()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for _, k := range r.path.away(ctx) {
				moved[k] = true
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return func() { cancel(); watching.Wait() }
}

// tell says in a line how the run went.
func (r *run) tell() {
	fmt.Fprintf(os.Stderr, "%s, %s, seed %d, node %d: acked %d, unconfirmed at the victim %d, lost %d (mandatory: %d), deleted with a shard %d, settled after %.0f s, took %.0f s",
		r.Path, r.Fault, r.Seed, r.Victim+1, r.Acked, r.Unconfirmed, r.Lost, r.LostMandatory, r.WithShard, r.Settled, r.Took)
	if !r.Counts {
		fmt.Fprint(os.Stderr, "; it does not count, too little was unconfirmed")
	}
	if r.world.groups {
		fmt.Fprintf(os.Stderr, "; %d keys out of order, %d deliveries again", r.Reordered, r.Duplicated)
	}
	if r.Error != "" {
		fmt.Fprintf(os.Stderr, "\n  %s", r.Error)
	}
	fmt.Fprintln(os.Stderr)
	r.rec.tellLosses(os.Stderr)
}
