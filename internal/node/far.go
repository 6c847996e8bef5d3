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
	making  chan struct{}
	dueAt   time.Time
	pause   time.Duration
	working bool
}

// deletedApart tells whether a stream was deleted at a broker that is not in one cluster
// with ours. n.mu is held.
func (n *Node) deletedApart(st *membership.State, name shard.Name) bool {
	f, known := st.Facts[streamKey(name)]
	if !known || !f.Deleted() || f.Owner == n.cfg.ID {
		return false
	}
	for _, m := range n.members {
		if m.id == f.Owner {
			return m.clustered != "" && n.clustered != "" && m.clustered != n.clustered
		}
	}
	return false
}

// removes begins the removal of the exchange of a stream that is gone. Who uses the name
// waits until it is done. n.mu is held.
func (n *Node) removes(s *stream) {
	n.removals[s.name] = &removal{making: s.making, pause: retryMin}
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
	settings, match := n.cfg.Rules.Match(name.VHost, name.Stream)
	if !match {
		settings = n.cfg.Rules.Ended()
	}
	err := n.keeper.Remove(ctx, name, settings.Local)
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
