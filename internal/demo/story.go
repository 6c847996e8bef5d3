package demo

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"amqproxy/internal/fakebroker"
)

const (
	keyCount       = 60
	producerCount  = 3
	consumerCount  = len(nodeNames) * shardsPerNode // one for each shard
	soon           = 20 * time.Second               // for what has to come about
	consumerPrefix = "consumer-"                    // of their names and tags
	flowing        = 5                              // messages of each key that show that it flows
)

// story is what happens in a demo. One goroutine tells it; the view looks on.
type story struct {
	site      *site
	ledger    *ledger
	keys      []string
	home      placement // while all brokers run
	producers []*producer
	consumers []*consumer
	enough    chan struct{} // closed to have the producers finish
	running   sync.WaitGroup
	stop      context.CancelFunc // ends the clients
	began     time.Time
	victims   int // how many were asked for

	mu      sync.Mutex
	now     placement       // by what all proxies agreed on last
	roamed  map[string]bool // keys that have ever moved
	events  []event
	tell    func(event) // is told of each; nil is nobody
	outcome outcome
}

// event is one line of the story.
type event struct {
	at   time.Duration
	text string
	tone tone
}

// begin starts brokers, proxies and clients. What has begun must be closed, whatever the error.
func begin(ctx context.Context, version string, log *zap.Logger) (s *story, err error) {
	ctx, stop := context.WithCancel(ctx)
	s = &story{enough: make(chan struct{}), stop: stop, began: time.Now(), roamed: map[string]bool{}}
	for i := range keyCount {
		s.keys = append(s.keys, fmt.Sprintf("order-%02d", i))
	}
	s.ledger = newLedger(s.keys)
	if s.site, err = startSite(ctx, version, log, s.taken); err != nil {
		return s, err
	}
	if err := s.declare(ctx); err != nil {
		return s, err
	}
	if _, err := s.settle(ctx); err != nil {
		return s, err
	}
	s.home = s.now
	s.clients(ctx)
	return s, nil
}

// open waits until messages flow.
func (s *story) open(ctx context.Context) {
	s.goesOn(ctx, "messages flow")
	s.note(good, "messages of %d keys flow through %d shards", keyCount, len(nodeNames)*shardsPerNode)
}

// taken is told by the brokers what leaves a queue; it counts what goes to others.
func (s *story) taken(queue, tag string) {
	if isShard(queue) && !strings.HasPrefix(tag, consumerPrefix) {
		s.ledger.guest()
	}
}

// declare is what any application does that publishes: it declares its exchange.
func (s *story) declare(ctx context.Context) error {
	c := client{name: "declares", site: s.site}
	return c.through(ctx, s.site.nodes[0], func(_ context.Context, ch *amqp.Channel) error {
		return ch.ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil)
	})
}

// clients starts the producers and consumers.
func (s *story) clients(ctx context.Context) {
	for i := range consumerCount {
		c := &consumer{client: client{name: fmt.Sprintf("%s%d", consumerPrefix, i+1), home: i % len(nodeNames), site: s.site}, ledger: s.ledger}
		s.consumers = append(s.consumers, c)
		c.start(ctx)
	}
	for i := range producerCount {
		p := &producer{client: client{name: fmt.Sprintf("producer-%d", i+1), home: i % len(nodeNames), site: s.site},
			ledger: s.ledger, enough: s.enough, done: make(chan struct{})}
		for k := i; k < len(s.keys); k += producerCount {
			p.keys = append(p.keys, &outgoing{key: s.keys[k]})
		}
		s.producers = append(s.producers, p)
		s.running.Go(func() { p.run(ctx) })
	}
}

// note adds an event.
func (s *story) note(t tone, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := event{time.Since(s.began), fmt.Sprintf(format, args...), t}
	s.events = append(s.events, e)
	if s.tell != nil {
		s.tell(e)
	}
}

// tellTo has tell told of what is noted from now on.
func (s *story) tellTo(tell func(event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = tell
}

// victim gives one of so many after the other.
func (s *story) victim(of int) int {
	s.victims++
	return s.victims % of
}

// within waits until check gives nil, and tells how long that took.
func within(ctx context.Context, limit time.Duration, check func() error) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		took := time.Since(began)
		if err == nil {
			return took, nil
		}
		if took > limit {
			return took, fmt.Errorf("after %s: %w", short(took), err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return took, ctx.Err()
		}
	}
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// settle waits until all proxies send each key to the same shard of a broker that runs.
func (s *story) settle(ctx context.Context) (took time.Duration, err error) {
	return within(ctx, soon, func() error {
		table, err := s.site.agreed()
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now = place(table, s.keys)
		return nil
	})
}

// flow waits until more messages of each key were confirmed and delivered.
func (s *story) flow(ctx context.Context) (took time.Duration, err error) {
	before := s.ledger.progress()
	return within(ctx, soon, func() error {
		for key, p := range s.ledger.progress() {
			if p.confirmed < before[key].confirmed+flowing {
				return fmt.Errorf("messages of key %s are not confirmed", key)
			}
			if p.delivered < before[key].delivered+flowing && s.ledger.total().Guests == 0 { // or they have it
				return fmt.Errorf("messages of key %s are not delivered", key)
			}
		}
		return nil
	})
}

// placed is where each key is.
func (s *story) placed() placement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// late notes what did not come about in time; an end of ctx is not that.
func (s *story) late(ctx context.Context, what string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.outcome.late = append(s.outcome.late, fmt.Sprintf("%s: %v", what, err))
	s.mu.Unlock()
	s.note(bad, "%s: %v", what, err)
}

// finish brings all back, has what is under way arrive, and tells what came of it.
func (s *story) finish(ctx context.Context) outcome {
	for i := range s.site.nodes {
		s.restoreBroker(ctx, i)
		s.restoreProxy(ctx, i)
	}
	for i := range s.consumers {
		s.restoreConsumer(ctx, i)
	}
	close(s.enough)
	_, err := within(ctx, soon, s.drained)
	s.late(ctx, "the last messages", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.outcome
	o.counts = s.ledger.total()
	disordered := s.ledger.reordered()
	for _, key := range s.keys {
		if s.roamed[key] {
			continue
		}
		o.steady = append(o.steady, key)
		if disordered[key] {
			o.disorder = append(o.disorder, key)
		}
	}
	return o
}

// drained tells whether all that was published is confirmed and delivered, and the shards
// are empty.
func (s *story) drained() error {
	for _, p := range s.producers {
		select {
		case <-p.done:
		default:
			return fmt.Errorf("%s still awaits confirms", p.name)
		}
	}
	waiting := 0
	for _, q := range s.shards() {
		waiting += q.Ready + q.Unacked
	}
	if missing := s.ledger.total().lost(); waiting+missing > 0 {
		return fmt.Errorf("%d messages are in the brokers, %d confirmed ones were not delivered", waiting, missing)
	}
	return nil
}

// shards are the queues of the stream on all brokers, dead or not.
func (s *story) shards() (all []fakebroker.QueueView) {
	for _, n := range s.site.nodes {
		for _, q := range n.broker.Queues() {
			if isShard(q.Name) {
				all = append(all, q)
			}
		}
	}
	return all
}

// eating is how many consumers live.
func (s *story) eating() (n int) {
	for _, c := range s.consumers {
		if c.lives.Load() {
			n++
		}
	}
	return n
}

// close ends all that runs, as it is.
func (s *story) close() error {
	s.stop()
	s.running.Wait()
	for _, c := range s.consumers {
		c.kill()
	}
	return s.site.close()
}
