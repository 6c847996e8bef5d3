package node

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/membership"
	"amqproxy/shard"
)

const (
	// noneFor is how long a name that is no stream is not asked about again,
	// unless it is declared.
	noneFor = 5 * time.Second
	// maxNone bounds the memory of such names.
	maxNone = 10_000
	// Pauses between two tries to make a stream.
	retryMin, retryMax = time.Second, 30 * time.Second
	// tickEvery is how often the loop looks at what time alone changes.
	tickEvery = 250 * time.Millisecond
)

// Config is what a Node must be told.
type Config struct {
	Name           string // names this node's shards
	ID             string // the gossip identity
	Version        string // of this proxy
	Broker         string // host:port of this node's broker, as other nodes reach it
	Rules          *shard.Rules
	State          *StateFile
	DeclareTimeout time.Duration // bounds an errand
	LostGrace      time.Duration // how long a silent node's shards stay in the tables
}

// Node is this node. Its methods may be called concurrently.
type Node struct {
	cfg     Config
	keeper  *keeper.Keeper
	cluster *membership.Cluster
	log     *zap.Logger
	began   time.Time

	snapshot atomic.Pointer[shard.Snapshot]
	working  sync.WaitGroup // makers and healers that Run has started
	silent   map[string]int // pings without an answer, by node; watchBrokers' own

	mu        sync.Mutex
	news      chan struct{} // closed when the Snapshot is replaced
	streams   map[shard.Name]*stream
	none      map[shard.Name]noStream
	changes   map[shard.Name]*change
	seats     map[shard.Queue]int // consumers of this proxy's clients, by shard
	holds     map[shard.Queue]int // sessions with unacknowledged deliveries of a shard
	told      said
	retiring  map[shard.Name]map[string]string // retired shards of anybody, see standings
	quorum    map[shard.Queue]*leader          // of quorum shards whose nodes do not serve
	members   map[string]member
	condition Condition
	besides   map[string]*besides // by node
	dead      map[string]bool     // nodes that are silent and whose broker is down too
	removals  map[shard.Name]*removal
	far       map[string]*keeper.Keeper // for brokers that are in no cluster with ours, by address
	running   context.Context           // of Run; nil before

	groups       map[shard.Name]*group
	groupOf      map[uint64]shard.Name // by the consumer's number
	lastConsumer uint64
	downSince    map[string]time.Time // when brokers were first seen down, by node
	heard        map[string]heard     // of other nodes' consumers, by key
	shares       shard.Parts          // what the consumers here are to read
	partsNews    chan struct{}        // closed when shares are replaced
	handed       Handovers
	regroups     chan struct{} // cap 1: something here is to be told
	lasting      uint64        // of the State that the Snapshot was made from
	stirs        int
}

// New makes a Node. It knows what cluster knows.
func New(cfg Config, k *keeper.Keeper, cluster *membership.Cluster, log *zap.Logger) *Node {
	n := &Node{
		cfg: cfg, keeper: k, cluster: cluster, log: log, began: time.Now(),
		news:      make(chan struct{}),
		streams:   map[shard.Name]*stream{},
		none:      map[shard.Name]noStream{},
		changes:   map[shard.Name]*change{},
		seats:     map[shard.Queue]int{},
		holds:     map[shard.Queue]int{},
		quorum:    map[shard.Queue]*leader{},
		dead:      map[string]bool{},
		besides:   map[string]*besides{},
		removals:  map[shard.Name]*removal{},
		far:       map[string]*keeper.Keeper{},
		silent:    map[string]int{},
		groups:    map[shard.Name]*group{},
		groupOf:   map[uint64]shard.Name{},
		heard:     map[string]heard{},
		downSince: map[string]time.Time{},
		partsNews: make(chan struct{}),
		regroups:  make(chan struct{}, 1),
		condition: Starting,
	}
	n.firstPing()
	n.tellCondition()
	n.forgetHolds(cluster.State()) // what was said before this start holds for no session of now
	n.reconcile()
	if cfg.State != nil {
		n.missedDeletes(cfg.State.Remembered())
	}
	return n
}

// Snapshot is what sessions route by.
func (n *Node) Snapshot() *shard.Snapshot { return n.snapshot.Load() }

// Start makes sure of this node's shards, for at most ctx, and says to all that
// it runs.
func (n *Node) Start(ctx context.Context) {
	var all sync.WaitGroup
	for _, s := range n.wanted() {
		all.Go(func() { n.ensure(ctx, s) })
	}
	all.Wait()
	n.mu.Lock()
	if n.condition == Starting {
		n.condition = Running
	}
	n.tellCondition()
	n.mu.Unlock()
	n.reconcile()
}

// Stop says to all that this node is about to end, and returns when they have
// heard it: its shards leave the tables.
func (n *Node) Stop() {
	n.mu.Lock()
	n.condition = Stopping
	n.tellCondition()
	n.mu.Unlock()
	n.reconcile()
	n.regroup(time.Now())
	n.cluster.Flush()
}

func (n *Node) tellCondition() {
	n.set(nodeKey(n.cfg.Name), nodeFact{ID: n.cfg.ID, Condition: n.condition, Broker: n.cfg.Broker, Version: n.cfg.Version})
}

// keepWord says again what holds for this node when the others had remembered
// something else and it came to us: we may have started alone, without our state
// file. Another proxy that claims our name is not argued with. n.mu is held.
func (n *Node) keepWord() {
	st := n.cluster.State()
	f, known := read[nodeFact](st, nodeKey(n.cfg.Name))
	twin := slices.ContainsFunc(st.Members, func(m membership.Member) bool {
		return m.ID == f.ID && m.ID != n.cfg.ID && m.Presence == membership.Alive
	})
	if known && !twin {
		n.tellCondition()
	}
}

// set tells a fact.
func (n *Node) set(key string, value any) {
	if err := n.cluster.Set(key, value); err != nil {
		n.log.Error("a fact can't be told", zap.String("key", key), zap.Error(err))
	}
}

// Run follows what is said and what time changes, until ctx is done.
func (n *Node) Run(ctx context.Context) {
	defer n.working.Wait()
	n.mu.Lock()
	n.running = ctx
	n.mu.Unlock()
	n.working.Go(func() { n.watchBrokers(ctx) })
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			n.regroup(time.Now())
			n.save()
			return
		case <-n.cluster.Changed():
			if n.stirred() {
				n.reconcile()
			}
			n.regroup(time.Now())
		case <-n.regroups:
			n.regroup(time.Now())
		case now := <-tick.C:
			n.regroup(now)
			n.expire(now)
			if n.anyLost() { // the grace of one may be over
				n.reconcile()
			}
			n.save()
		}
		for _, s := range n.due(time.Now()) {
			n.working.Go(func() { n.work(ctx, s) })
		}
		for name, r := range n.dueRemovals(time.Now()) {
			n.working.Go(func() { n.remove(ctx, name, r) })
		}
	}
}

// stirred tells whether anything has changed but for what the consumers of groups do.
func (n *Node) stirred() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.cluster.State()
	return st.Lasting != n.lasting || st.Stirs != n.stirs
}

// reconcile brings what this node holds up to what the facts say.
func (n *Node) reconcile() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keepWord()
	st := n.cluster.State() // under the lock: an older picture must not undo a newer one
	n.lasting, n.stirs = st.Lasting, st.Stirs
	n.members = membersOf(st, n.began)
	n.told = saidOf(st)
	places := placements(st, n.told, n.cfg.Rules, n.cfg.Name)
	for name, s := range n.streams {
		if _, live := places[name]; !live {
			if s.state != Ended {
				n.log.Info("stream deleted; its shards stay", zap.String("stream", name.Stream), zap.String("vhost", name.VHost))
			}
			delete(n.streams, name)
			n.withdraw(name)
			s.gone = true
			if by := n.deletedBy(st, name); by != "" && s.state != Ended {
				n.removes(s, by)
			}
		}
	}
	for name, p := range places {
		n.follow(name, p)
	}
	n.publish(places)
	n.askBesides(time.Now())
	n.forgetHolds(st)
}

// follow brings this node's side of a stream up to its fact. n.mu is held.
func (n *Node) follow(name shard.Name, p placement) {
	s := n.streams[name]
	if s == nil {
		s = n.newStream(name)
		n.streams[name] = s
		delete(n.none, name)
		if r := n.removals[name]; r != nil {
			s.making = r.making
			n.spares(name)
		}
	}
	if s.fact.Born != "" && s.fact != p.fact && (s.fact.Born != p.fact.Born || s.fact.Destroyed) {
		s.state, s.dueAt = Making, time.Time{}
		s.whole, s.waitTill = false, n.patience()
	}
	s.fact, s.place = p.fact, p
	for node, shards := range p.shards {
		s.seen[node] = nil
		for _, sh := range shards {
			s.seen[node] = append(s.seen[node], sh.Queue)
		}
	}
	switch {
	case !p.fact.Destroyed:
		n.retire(s)
	case s.state != Destroyed:
		s.state, s.retired = Destroyed, nil
		n.withdraw(name)
	}
}

// publish makes a new Snapshot. n.mu is held.
func (n *Node) publish(places map[shard.Name]placement) {
	now := time.Now()
	serves := func(settings *shard.Settings) map[string]bool {
		all := map[string]bool{}
		for node, m := range n.members {
			all[node] = m.serves(now, n.cfg.LostGrace, n.dead[node], settings)
		}
		return all
	}
	tables := make(map[shard.Name]*shard.Table, len(places))
	queues, retiring := n.told.standings()
	n.retiring = retiring
	others := make(map[shard.Name]shard.Verdict, len(n.none)+len(n.changes))
	for name, p := range places {
		s := n.streams[name]
		if !n.settle(s, now) {
			others[name] = shard.Unknown
		}
		tables[name] = shard.NewTable(name.VHost, name.Stream, s.settings, p.fact.declared(), append(n.ready(name, p, serves(s.settings)), s.readable()...), s.counters)
	}
	for name, what := range n.none {
		others[name] = what.verdict
	}
	for name := range n.changes {
		others[name] = shard.Unknown
	}
	brokers := make(map[string]shard.Broker, len(n.members))
	for node, m := range n.members {
		if node != n.cfg.Name && m.broker != "" {
			// Until it is known the home link may be tried: what its broker can't
			// route comes back.
			brokers[node] = m.reached(n.members[n.cfg.Name], !n.apart(node))
		}
	}
	n.snapshot.Store(shard.NewSnapshot(n.cfg.Name, n.cfg.Rules, tables, others, queues, brokers))
	close(n.news)
	n.news = make(chan struct{})
}

// republish makes the Snapshot anew from the same facts. n.mu is held.
func (n *Node) republish() {
	places := make(map[shard.Name]placement, len(n.streams))
	for name, s := range n.streams {
		places[name] = s.place
	}
	n.publish(places)
}

func (n *Node) anyLost() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.members {
		if m.presence == membership.Lost {
			return true
		}
	}
	return false
}

func (n *Node) expire(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	expired := false
	for name, what := range n.none {
		if now.After(what.until) {
			delete(n.none, name)
			expired = true
		}
	}
	for _, s := range n.streams {
		expired = expired || !s.whole && now.After(s.waitTill)
	}
	if expired {
		n.republish()
	}
}
