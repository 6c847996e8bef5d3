package node

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/membership"
	"amqproxy/shard"
)

// Brokers that are in no cluster with this node's know nothing of each other: what is
// done to all shards of a stream has to be done at each, and each proxy deletes the
// exchange at its own.

// parts are the shards of all nodes, retired ones among them, with the keeper for their
// broker.
func (n *Node) parts(s *stream) map[*keeper.Keeper][]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	parts := map[*keeper.Keeper][]string{}
	for node, shards := range s.place.shards {
		k := n.keeperFor(node)
		for _, sh := range shards {
			parts[k] = append(parts[k], sh.Queue)
		}
	}
	for node, retired := range s.place.retired {
		k := n.keeperFor(node)
		for _, r := range retired {
			parts[k] = append(parts[k], r.Queue)
		}
	}
	for _, queues := range parts {
		slices.Sort(queues)
	}
	return parts
}

// keeperFor is the keeper for the broker of a node: this node's own for all of its
// cluster. n.mu is held.
func (n *Node) keeperFor(node string) *keeper.Keeper {
	b := n.Snapshot().Broker(node)
	if b.Address == "" || b.Beside || n.running == nil || n.running.Err() != nil {
		return n.keeper
	}
	k := n.far[b.Address]
	if k == nil {
		k = keeper.New(b.Address)
		n.far[b.Address] = k
		ctx := n.running
		n.working.Go(func() { k.Run(ctx) })
	}
	return k
}

// removal is a stream's exchange at this node's broker that has to go, since it was
// deleted at another that is not in one cluster with it. Guarded by Node.mu, but for
// making, which belongs to the stream of that name.
type removal struct {
	stream  *stream
	by      string   // the node where it was deleted
	queues  []string // its shards
	making  chan struct{}
	dueAt   time.Time
	pause   time.Duration
	working bool
}

// besideAgain is how long a node counts as apart before the broker is asked again: one may
// join the cluster.
const besideAgain = 10 * time.Second

// besides is what is known of a node's broker: whether it is in one cluster with ours.
type besides struct {
	yes    bool      // once it is so it stays so
	at     time.Time // of the last answer; zero while there is none
	tried  time.Time
	asking bool
}

// beside tells whether it is known that a node's broker is in one cluster with ours, and
// apart whether it is known that it is not. n.mu is held.
func (n *Node) beside(node string) bool { return n.besides[node] != nil && n.besides[node].yes }

func (n *Node) apart(node string) bool {
	b := n.besides[node]
	return b != nil && !b.yes && !b.at.IsZero()
}

// askBesides has our broker asked where it is not known, or was not so a while ago. It
// knows the shards of the nodes of its cluster. n.mu is held.
func (n *Node) askBesides(now time.Time) {
	ctx := n.running
	if ctx == nil || ctx.Err() != nil || n.condition == BrokerDown || n.condition == Stopping {
		return
	}
	for _, s := range n.streams {
		for node, queues := range s.seen {
			b := n.besides[node]
			if b == nil {
				b = &besides{}
				n.besides[node] = b
			}
			if node == n.cfg.Name || b.yes || b.asking || now.Sub(b.at) < besideAgain || now.Sub(b.tried) < retryMin || len(queues) == 0 {
				continue
			}
			b.asking, b.tried = true, now
			n.working.Go(func() { n.askBeside(ctx, node, s, queues) })
		}
	}
}

// askBeside asks our broker about shards of another node.
func (n *Node) askBeside(ctx context.Context, node string, s *stream, queues []string) (beside bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DeclareTimeout)
	defer cancel()
	beside, err = n.keeper.Knows(ctx, s.name.VHost, queues, s.settings.Local)
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.besides[node]
	if b == nil {
		b = &besides{}
		n.besides[node] = b
	}
	b.asking = false
	if err != nil {
		return beside, err
	}
	news := b.at.IsZero() || beside && !b.yes
	b.yes, b.at = b.yes || beside, time.Now()
	if news {
		n.republish()
	}
	return beside, nil
}

// deletedBy is the node that has deleted a stream; "" if it was this one, or is not known.
// n.mu is held.
func (n *Node) deletedBy(st *membership.State, name shard.Name) string {
	f, known := st.Facts[streamKey(name)]
	if !known || !f.Deleted() || f.Owner == n.cfg.ID {
		return ""
	}
	for node, m := range n.members {
		if m.id == f.Owner {
			return node
		}
	}
	return ""
}

// missedDeletes finds the streams that were deleted elsewhere while this node was away.
func (n *Node) missedDeletes(before membership.Memory) {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.cluster.State()
	for _, f := range before.Facts {
		kind, name, _, ok := parseKey(f.Key)
		if !ok || kind != "stream" || f.Deleted() || n.streams[name] != nil {
			continue
		}
		if by := n.deletedBy(st, name); by != "" {
			n.removes(n.newStream(name), by)
		}
	}
	n.republish()
}

// removes begins the removal of the exchange of a stream that another node has deleted,
// unless our broker is in one cluster with that one's. Who uses the name waits until it is
// done. n.mu is held.
func (n *Node) removes(s *stream, by string) {
	if n.beside(by) {
		return
	}
	queues := s.seen[by]
	if len(queues) == 0 { // we have not heard of them, but know what they are called
		queues = []string{shard.QueueName(s.settings.QueuePrefix, s.name.Stream, by, 0)}
	}
	n.removals[s.name] = &removal{stream: s, by: by, queues: queues, making: s.making, pause: retryMin}
	c := n.changes[s.name]
	if c == nil {
		c = &change{deleting: true}
		n.changes[s.name] = c
	}
	c.holders++
}

// spares ends a removal: it is done, or the stream is declared again. n.mu is held.
func (n *Node) spares(name shard.Name) {
	delete(n.removals, name)
	n.release(name)
}

// dueRemovals are those whose time has come, marked as worked on.
func (n *Node) dueRemovals(now time.Time) map[shard.Name]*removal {
	n.mu.Lock()
	defer n.mu.Unlock()
	due := map[shard.Name]*removal{}
	for name, r := range n.removals {
		if !r.working && !now.Before(r.dueAt) {
			r.working = true
			due[name] = r
		}
	}
	return due
}

// remove deletes the exchange. Nobody makes the stream anew meanwhile.
func (n *Node) remove(ctx context.Context, name shard.Name, r *removal) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DeclareTimeout)
	defer cancel()
	r.making <- struct{}{}
	defer func() { <-r.making }()
	n.mu.Lock()
	wanted := n.removals[name] == r
	n.mu.Unlock()
	if !wanted {
		return
	}
	beside, err := n.askBeside(ctx, r.by, r.stream, r.queues)
	if err == nil && !beside {
		err = n.keeper.Remove(ctx, name, r.stream.settings.Local)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r.working = false
	switch {
	case n.removals[name] != r:
	case err == nil:
		n.spares(name)
	default:
		r.dueAt = time.Now().Add(r.pause)
		r.pause = min(2*r.pause, retryMax)
		n.log.Error("the exchange of a stream that was deleted elsewhere can't be deleted here; will try again",
			zap.String("exchange", name.Stream), zap.String("vhost", name.VHost), zap.Error(err))
	}
}
