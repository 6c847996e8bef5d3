package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"amqproxy/shard"
)

// State is how far a stream is on this node.
type State string

const (
	Making    State = "making"    // its shards are not all there yet
	Ready     State = "ready"     // every shard is there, bound, and proved
	Failed    State = "failed"    // the keeper could not; tried again
	Destroyed State = "destroyed" // its shards were deleted by queue.delete; a declare makes them again
	Ended     State = "ended"     // no policy makes it a stream; its shards are read until they are empty
)

const (
	// healEvery is how often shards and bindings are looked after, and
	// healRate how many shards a second at most: a round takes longer then.
	healEvery = time.Second
	healRate  = 100
)

// stream is one stream on this node. Guarded by Node.mu, but for what never
// changes and for making, which is held while the keeper works on the stream.
type stream struct {
	name     shard.Name
	node     string // this one
	settings *shard.Settings
	queues   []string // this node's shards, by index
	counters *shard.Counters
	making   chan struct{} // cap 1
	tries    *tries        // guarded by making

	fact     streamFact
	place    placement
	seen     map[string][]string // the shards that each node told of last
	retired  []*retiree
	state    State
	reason   string // why it failed
	differs  []string
	failures int
	dueAt    time.Time // when it is worked on next
	drainAt  time.Time // when its retired shards are, at the earliest
	working  bool      // Run has sent somebody
	gone     bool      // it is no stream any more
	whole    bool      // its table has had the shards of every node that runs: see settle
	waitTill time.Time // for that, at most
}

// newStream is a stream that a policy makes of name, or has made.
func (n *Node) newStream(name shard.Name) *stream {
	s := &stream{name: name, node: n.cfg.Name, counters: &shard.Counters{}, state: Making, making: make(chan struct{}, 1), tries: &tries{}, seen: map[string][]string{}, waitTill: n.patience()}
	var match bool
	if s.settings, match = n.cfg.Rules.Match(name.VHost, name.Stream); !match {
		s.settings, s.state = n.cfg.Rules.Ended(), Ended
		n.log.Info("no policy makes a stream of this exchange any more: it is an ordinary one, and its shards are read until they are empty",
			zap.String("exchange", name.Stream), zap.String("vhost", name.VHost))
		return s
	}
	var err error
	if s.queues, err = shard.LocalQueues(s.settings, name.Stream, n.cfg.Name); err != nil { // declared elsewhere, where the node's name is shorter
		n.log.Error("this node can't have shards of a stream", zap.Error(err))
	}
	return s
}

// patience is until when a stream that is new here is held up. It ends before the
// errand does that waits for it.
func (n *Node) patience() time.Time { return time.Now().Add(n.cfg.DeclareTimeout * 3 / 4) }

// settle tells whether a stream may be used. One that is new is held up, here too
// when another node's client has declared it, until the shards of every node that
// runs are known: word of them comes to each node at a time of its own, and a part
// of them would put keys where they do not stay. n.mu is held.
func (n *Node) settle(s *stream, now time.Time) bool {
	s.whole = s.whole || s.fact.Destroyed || s.state == Ended || n.missing(s.name) == "" || now.After(s.waitTill)
	return s.whole
}

// tries tells whether a try to make a stream began after somebody asked for one:
// its result is his too, so that a crowd of declares costs two tries.
type tries struct {
	clock atomic.Uint64
	began uint64 // when the last one that has ended began
	err   error
}

// wanted are the streams that should have shards here.
func (n *Node) wanted() []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*stream
	for _, s := range n.streams {
		if s.state != Destroyed && len(s.queues) > 0 {
			all = append(all, s)
		}
	}
	return all
}

// due are the streams whose time has come, marked as worked on.
func (n *Node) due(now time.Time) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var due []*stream
	if n.condition != Running {
		return nil
	}
	for _, s := range n.streams {
		if !s.working && s.state != Destroyed && len(s.queues)+len(s.retired) > 0 && !now.Before(s.dueAt) {
			s.working = true
			due = append(due, s)
		}
	}
	return due
}

// work makes a stream, or heals one that was made.
func (n *Node) work(ctx context.Context, s *stream) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DeclareTimeout)
	defer cancel()
	n.mu.Lock()
	state := s.state
	n.mu.Unlock()
	switch state {
	case Ready:
		n.heal(ctx, s)
	case Ended:
	default:
		n.save() // what is made here must not be forgotten by a crash: see missedDeletes
		n.ensure(ctx, s)
	}
	n.drain(ctx, s)
	n.mu.Lock()
	defer n.mu.Unlock()
	s.working = false
}

// lock waits until nobody else works on the stream.
func (s *stream) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case s.making <- struct{}{}:
		return func() { <-s.making }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the shards of stream '%s' are still being made: %w", s.name.Stream, ctx.Err())
	}
}

// ensure has the keeper make the stream's exchange and shards here, and tells
// everybody when they are ready.
func (n *Node) ensure(ctx context.Context, s *stream) error {
	asked := s.tries.clock.Add(1)
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if s.tries.began > asked {
		return s.tries.err
	}
	began := s.tries.clock.Add(1)
	err = n.try(ctx, s)
	s.tries.began, s.tries.err = began, err
	return err
}

func (n *Node) try(ctx context.Context, s *stream) error {
	n.mu.Lock()
	born := s.fact.Born
	n.mu.Unlock()
	differs, err := n.keeper.Make(ctx, s.name, s.queues, s.settings.QueueArguments, s.settings.Local)
	var beyond []string
	if err == nil { // what a former configuration wanted, and nobody remembers
		beyond, err = n.keeper.Beyond(ctx, s.name.VHost, s.queueName, len(s.queues), s.settings.Local)
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case s.gone:
		return fmt.Errorf("stream '%s' was deleted meanwhile", s.name.Stream)
	case err != nil:
		n.failed(s, err)
		return err
	}
	log := n.log.With(zap.String("stream", s.name.Stream), zap.String("vhost", s.name.VHost))
	for _, d := range differs {
		if !slices.Contains(s.differs, d) {
			log.Warn("a shard that exists differs from its definition and is used as it is", zap.String("broker", d))
			if strings.Contains(d, "'"+shard.SingleActive+"'") && s.settings.QueueArguments["x-queue-type"] == "quorum" {
				log.Warn("nothing keeps a second consumer off a quorum shard without "+shard.SingleActive+": its order is not safe", zap.String("broker", d))
			}
		}
	}
	if s.state != Ready {
		log.Info("stream ready", zap.Strings("shards", s.queues), zap.String("policy", s.settings.Policy))
	}
	s.state, s.reason, s.differs, s.failures = Ready, "", differs, 0
	s.dueAt = time.Now().Add(n.healPause())
	if born == s.fact.Born && !s.fact.Destroyed {
		var extra []retiree
		for _, q := range beyond {
			extra = append(extra, retiree{queue: q, quorum: s.isQuorum(q), single: s.isSingle(q)})
		}
		n.addRetired(s, extra)
		n.announce(s, born, s.queues)
	} else { // it was born again while we worked
		s.state, s.dueAt = Making, time.Time{}
	}
	return nil
}

// announce tells everybody of the stream's shards here that are ready, and of the
// retired ones. n.mu is held.
func (n *Node) announce(s *stream, born string, ready []string) {
	s.place.own = s.says(born, ready)
	n.told[shardsOf{s.name, n.cfg.Name}] = s.place.own
	n.set(shardsKey(s.name, n.cfg.Name), s.place.own)
}

// withdraw says that this node has no shards of a stream any more. n.mu is held.
func (n *Node) withdraw(name shard.Name) {
	delete(n.told, shardsOf{name, n.cfg.Name})
	n.set(shardsKey(name, n.cfg.Name), nil)
}

// says is what this node has to say of the stream's shards.
func (s *stream) says(born string, ready []string) shardsFact {
	f := shardsFact{Born: born, Shards: []shardFact{}}
	for _, q := range ready {
		f.Shards = append(f.Shards, shardFact{Queue: q, Weight: s.settings.Weight, Quorum: s.isQuorum(q), Single: s.isSingle(q)})
	}
	for _, r := range s.retired {
		f.Retired = append(f.Retired, retiredFact{Queue: r.queue, Quorum: r.quorum, Single: r.single, Closing: r.closing})
	}
	return f
}

// isQuorum tells whether a shard is a quorum queue: it was made as one, or the
// broker has not said that it is of another type.
func (s *stream) isQuorum(queue string) bool {
	return s.settings.QueueArguments["x-queue-type"] == "quorum" && !slices.ContainsFunc(s.differs, func(d string) bool {
		return strings.Contains(d, "'x-queue-type'") && strings.Contains(d, "'"+queue+"'")
	})
}

// isSingle tells the same of one that serves one of its consumers at a time.
func (s *stream) isSingle(queue string) bool {
	return s.settings.QueueArguments[shard.SingleActive] == true && !slices.ContainsFunc(s.differs, func(d string) bool {
		return strings.Contains(d, "'"+shard.SingleActive+"'") && strings.Contains(d, "'"+queue+"'")
	})
}

// failed notes what the keeper could not do, and when it is tried again.
func (n *Node) failed(s *stream, err error) {
	s.state, s.reason = Failed, err.Error()
	s.failures++
	pause := min(retryMin<<min(s.failures-1, 10), retryMax)
	s.dueAt = time.Now().Add(pause + rand.N(pause/4))
	n.log.Error("the stream's shards can't be made; will try again", zap.String("stream", s.name.Stream),
		zap.String("vhost", s.name.VHost), zap.Error(err), zap.Duration("in", pause))
}

// heal makes and binds again what somebody deleted. A missing exchange is left to
// the next try to make the whole: another proxy's client may have deleted it, and
// word of that is on its way.
func (n *Node) heal(ctx context.Context, s *stream) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return
	}
	defer unlock()
	n.mu.Lock()
	wanted := s.state == Ready && !s.gone // it may have been deleted while we waited
	n.mu.Unlock()
	if !wanted {
		return
	}
	made, err := n.keeper.Heal(ctx, s.name, s.queues, s.settings.QueueArguments, s.settings.Local)
	n.mu.Lock()
	defer n.mu.Unlock()
	s.dueAt = time.Now().Add(n.healPause())
	if s.gone || s.state != Ready {
		return
	}
	for _, q := range made {
		n.log.Warn("a shard was gone and is made again", zap.String("queue", q), zap.String("vhost", s.name.VHost))
	}
	var r *shard.Refused
	if errors.As(err, &r) { // a broker that is away is watched elsewhere
		n.failed(s, err)
	}
}

// healPause spreads the rounds when there are many shards. n.mu is held.
func (n *Node) healPause() time.Duration {
	shards := 0
	for _, s := range n.streams {
		shards += len(s.queues)
	}
	pause := max(healEvery, time.Duration(shards)*time.Second/healRate)
	return pause*3/4 + rand.N(pause/4)
}
