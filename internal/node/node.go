package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/shard"
)

const (
	// absentFor is how long a name that is no stream is not asked about again,
	// unless it is declared through this proxy.
	absentFor = 5 * time.Second
	// maxAbsent bounds the memory of such names.
	maxAbsent = 10_000
	// Pauses between two tries to make a stream.
	retryMin, retryMax = time.Second, 30 * time.Second
)

// Config is what a Node must be told.
type Config struct {
	Name           string // names this node's shards
	Rules          *shard.Rules
	StateFile      string        // "" keeps no state
	DeclareTimeout time.Duration // bounds an errand
}

// Node knows this node's streams. Its methods may be called concurrently.
type Node struct {
	cfg    Config
	keeper *keeper.Keeper
	log    *zap.Logger

	snapshot atomic.Pointer[shard.Snapshot]

	mu      sync.Mutex
	streams map[shard.Name]*stream
	absent  map[shard.Name]time.Time // until when
	seats   map[seat]int
}

// seat is a shard that consumers of this proxy's clients sit on.
type seat struct{ vhost, queue string }

// State is how far a stream is.
type State string

const (
	Making    State = "making"    // its shards are not all there yet
	Ready     State = "ready"     // every shard is there, bound, and proved
	Failed    State = "failed"    // the keeper could not; tried again
	Destroyed State = "destroyed" // its shards were deleted by queue.delete; a declare makes them again
)

// stream is one stream on this node. Guarded by Node.mu; making is a lock of its
// own that is held while the keeper works on the stream.
type stream struct {
	name     shard.Name
	settings *shard.Settings
	declared shard.Declared
	queues   []string // this node's shards, by index
	counters *shard.Counters

	state    State
	reason   string // why it failed
	ready    bool   // the shards take messages: made in this life or a former one
	differs  []string
	failures int
	retryAt  time.Time
	making   chan struct{} // cap 1
}

// New makes a Node that knows what its state file remembers.
func New(cfg Config, k *keeper.Keeper, log *zap.Logger) (*Node, error) {
	n := &Node{
		cfg: cfg, keeper: k, log: log,
		streams: map[shard.Name]*stream{},
		absent:  map[shard.Name]time.Time{},
		seats:   map[seat]int{},
	}
	if err := n.load(); err != nil {
		return nil, err
	}
	n.publish()
	return n, nil
}

// Snapshot is what sessions route by.
func (n *Node) Snapshot() *shard.Snapshot { return n.snapshot.Load() }

// publish makes a new Snapshot. n.mu is held, or n is not shared yet.
func (n *Node) publish() {
	tables := make(map[shard.Name]*shard.Table, len(n.streams))
	for name, s := range n.streams {
		tables[name] = s.table(n.cfg.Name)
	}
	absent := make(map[shard.Name]bool, len(n.absent))
	for name := range n.absent {
		absent[name] = true
	}
	n.snapshot.Store(shard.NewSnapshot(n.cfg.Name, n.cfg.Rules, tables, absent))
}

func (s *stream) table(node string) *shard.Table {
	var shards []shard.Shard
	if s.ready {
		for i, q := range s.queues {
			shards = append(shards, shard.Shard{Queue: q, Node: node, Index: i, Weight: s.settings.Weight, Local: true})
		}
	}
	return shard.NewTable(s.name.VHost, s.name.Stream, s.settings, s.declared, shards, s.counters)
}

// Start makes sure of the streams that are remembered, for at most ctx.
func (n *Node) Start(ctx context.Context) {
	var all sync.WaitGroup
	for _, s := range n.wanted() {
		all.Go(func() { n.ensure(ctx, s) })
	}
	all.Wait()
}

// Run tries again what failed and forgets what is old, until ctx is done.
func (n *Node) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			n.expire(now)
			for _, s := range n.due(now) {
				n.tryAgain(ctx, s)
			}
		}
	}
}

func (n *Node) tryAgain(ctx context.Context, s *stream) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DeclareTimeout)
	defer cancel()
	n.ensure(ctx, s)
}

// errand bounds an errand of a session's. The session's end does not cut it
// short: other sessions' errands use the same connection.
func (n *Node) errand(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), n.cfg.DeclareTimeout)
}

// wanted are the streams that should have shards.
func (n *Node) wanted() []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*stream
	for _, s := range n.streams {
		if s.state != Destroyed {
			all = append(all, s)
		}
	}
	return all
}

// due are the streams that failed and whose time has come.
func (n *Node) due(now time.Time) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var due []*stream
	for _, s := range n.streams {
		if s.state == Failed && now.After(s.retryAt) {
			due = append(due, s)
		}
	}
	return due
}

func (n *Node) expire(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.absent)
	for name, until := range n.absent {
		if now.After(until) {
			delete(n.absent, name)
		}
	}
	if len(n.absent) != before {
		n.publish()
	}
}

// remember adds a stream or finds the one that is there. A declare that differs
// from the first is refused.
func (n *Node) remember(name shard.Name, asked shard.Declared) (*stream, error) {
	settings, match := n.cfg.Rules.Match(name.VHost, name.Stream)
	if !match {
		return nil, fmt.Errorf("no policy makes a stream of '%s' in vhost '%s'", name.Stream, name.VHost)
	}
	queues, err := shard.LocalQueues(settings, name.Stream, n.cfg.Name)
	if err != nil {
		return nil, &shard.Refused{Code: preconditionFailed, Text: err.Error()}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.streams[name]
	if s == nil {
		s = &stream{name: name, settings: settings, declared: asked, queues: queues,
			counters: &shard.Counters{}, state: Making, making: make(chan struct{}, 1)}
		n.streams[name] = s
		delete(n.absent, name)
		n.publish()
		return s, nil
	}
	if err := s.table(n.cfg.Name).Equivalent(asked); err != nil && asked.Type != "" {
		return nil, &shard.Refused{Code: preconditionFailed, Text: err.Error()}
	}
	if s.declared.Type == "" {
		s.declared = asked
	}
	return s, nil
}

const (
	notFound           = 404
	preconditionFailed = 406
)

// ensure has the keeper make the stream's shards, and says what came of it to
// sessions and in the log. One at a time for each stream.
func (n *Node) ensure(ctx context.Context, s *stream) error {
	select {
	case s.making <- struct{}{}:
		defer func() { <-s.making }()
	case <-ctx.Done():
		return fmt.Errorf("the shards of stream '%s' are still being made: %w", s.name.Stream, ctx.Err())
	}
	differs, err := n.keeper.Make(ctx, s.name, s.queues, s.settings.QueueArguments, s.settings.Local)

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.streams[s.name] != s {
		return fmt.Errorf("stream '%s' was deleted meanwhile", s.name.Stream)
	}
	log := n.log.With(zap.String("stream", s.name.Stream), zap.String("vhost", s.name.VHost))
	if err != nil {
		s.state, s.reason = Failed, err.Error()
		s.failures++
		pause := min(retryMin<<min(s.failures-1, 10), retryMax)
		s.retryAt = time.Now().Add(pause + rand.N(pause/4))
		log.Error("the stream's shards can't be made; will try again", zap.Error(err), zap.Duration("in", pause))
		return err
	}
	for _, d := range differs {
		log.Warn("a shard that exists differs from its definition and is used as it is", zap.String("broker", d))
	}
	if s.state != Ready {
		log.Info("stream ready", zap.Strings("shards", s.queues), zap.String("policy", s.settings.Policy))
	}
	s.state, s.reason, s.ready, s.differs, s.failures = Ready, "", true, differs, 0
	n.publish()
	n.save()
	return nil
}

// Make makes a stream that a client has declared; its exchange is there.
func (n *Node) Make(ctx context.Context, name shard.Name, asked shard.Declared) error {
	s, err := n.remember(name, asked)
	if err != nil {
		return err
	}
	ctx, cancel := n.errand(ctx)
	defer cancel()
	return n.explain(name, n.ensure(ctx, s))
}

// explain puts the stream's name before what the keeper could not do.
func (n *Node) explain(name shard.Name, err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	var r *shard.Refused
	if errors.As(err, &r) {
		text = r.Text
	}
	return &shard.Refused{Code: preconditionFailed, Text: fmt.Sprintf("stream '%s' can't be made: %s", name.Stream, text)}
}

// Forget takes a stream whose exchange was deleted out of what this node knows.
// Its shards and their messages stay at the broker.
func (n *Node) Forget(_ context.Context, name shard.Name) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, name)
	n.publish()
	n.save()
	n.log.Info("stream deleted; its shards stay", zap.String("stream", name.Stream), zap.String("vhost", name.VHost))
	return nil
}

// Learn asks the broker whether a name that matches a policy is a stream that
// nobody remembers, and adopts it. When it returns nil the Snapshot knows.
func (n *Node) Learn(ctx context.Context, name shard.Name) error {
	if _, verdict := n.Snapshot().Find(name.VHost, name.Stream); verdict != shard.Unknown {
		return nil // somebody else asked
	}
	settings, _ := n.cfg.Rules.Match(name.VHost, name.Stream)
	ctx, cancel := n.errand(ctx)
	defer cancel()
	exists, err := n.keeper.Exists(ctx, name, settings.Local)
	if err != nil {
		return n.explain(name, err)
	}
	if !exists {
		n.noStream(name)
		return nil
	}
	s, err := n.remember(name, shard.Declared{})
	if err != nil {
		return err
	}
	err = n.ensure(ctx, s)
	var r *shard.Refused
	if errors.As(err, &r) && r.Code == preconditionFailed && !s.isReady(n) {
		// An exchange of another type: it goes on as what it is.
		n.log.Warn("an exchange matches a policy and is no stream's: delete it and declare it again to make one",
			zap.String("exchange", name.Stream), zap.String("vhost", name.VHost), zap.String("broker", r.Text))
		n.mu.Lock()
		delete(n.streams, name)
		n.mu.Unlock()
		n.noStream(name)
		return nil
	}
	return n.explain(name, err)
}

func (s *stream) isReady(n *Node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return s.ready
}

func (n *Node) noStream(name shard.Name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.absent) >= maxAbsent {
		clear(n.absent)
	}
	n.absent[name] = time.Now().Add(absentFor)
	n.publish()
}
