package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"amqproxy/internal/keeper"
	"amqproxy/shard"

	"go.uber.org/zap"
)

// find gives a stream that is known, or a refusal.
func (n *Node) find(name shard.Name) (*stream, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.streams[name]; s != nil {
		return s, nil
	}
	return nil, &shard.Refused{Code: notFound, Text: fmt.Sprintf("no stream '%s' in vhost '%s'", name.Stream, name.VHost)}
}

// Pick chooses a local shard for a consumer, which holds its seat until Leave.
func (n *Node) Pick(ctx context.Context, name shard.Name) (queue string, err error) {
	s, err := n.find(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := n.errand(ctx)
	defer cancel()
	n.mu.Lock()
	queues := s.sources()
	n.mu.Unlock()
	counts := make([]keeper.Counts, len(queues))
	if s.settings.ConsumePick == shard.PickFewest {
		if counts, err = n.keeper.Count(ctx, name.VHost, queues, s.settings.Local); err != nil {
			return "", err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	still := s.sources() // a retired shard may have closed meanwhile
	for i, q := range queues {
		counts[i].Missing = counts[i].Missing || !slices.Contains(still, q)
	}
	queue = n.fewest(s, queues, counts)
	if queue == "" {
		return "", &shard.Refused{Code: notFound, Text: fmt.Sprintf("stream '%s' in vhost '%s' has no shard on this node", name.Stream, name.VHost)}
	}
	n.seats[shard.Queue{VHost: name.VHost, Name: queue}]++
	return queue, nil
}

// sources are this node's shards that may be read. Node.mu is held.
func (s *stream) sources() []string {
	if s.state == Destroyed {
		return nil
	}
	queues := slices.Clone(s.queues)
	for _, r := range s.retired {
		if r.closing == "" {
			queues = append(queues, r.queue)
		}
	}
	return queues
}

// fewest picks at random among the shards with the fewest consumers; "" if there is
// none. The broker knows those of other connections, and this node those that are
// still on their way to the broker: the larger figure holds. n.mu is held.
func (n *Node) fewest(s *stream, queues []string, counts []keeper.Counts) string {
	best, least, ties := "", 0, 0
	for i, c := range counts {
		consumers := max(c.Consumers, n.seats[shard.Queue{VHost: s.name.VHost, Name: queues[i]}])
		switch {
		case c.Missing:
			continue
		case s.settings.ConsumePick == shard.PickRandom:
			consumers = 0
		}
		if best == "" || consumers < least {
			best, least, ties = queues[i], consumers, 0
		}
		if consumers == least {
			if ties++; rand.IntN(ties) == 0 {
				best = queues[i]
			}
		}
	}
	return best
}

// Leave gives a seat from Pick back.
func (n *Node) Leave(vhost, queue string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	less(n.seats, shard.Queue{VHost: vhost, Name: queue})
}

func less(m map[shard.Queue]int, at shard.Queue) {
	if m[at]--; m[at] <= 0 {
		delete(m, at)
	}
}

// Count sums up what the broker says of the shards, asked as login.
func (n *Node) Count(ctx context.Context, name shard.Name, login shard.Login) (messages, consumers int, err error) {
	s, err := n.find(name)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := n.errand(ctx)
	defer cancel()
	if login.User == "" { // a mechanism that can't be used again; sums are no secret to who is let in
		login = s.settings.Local
	}
	for k, queues := range n.parts(s) {
		counts, failed := k.Count(ctx, name.VHost, queues, login)
		if failed != nil && k != n.keeper && !errors.As(failed, new(*shard.Refused)) {
			continue // like a node of a cluster that is down
		}
		err = errors.Join(err, failed)
		for _, c := range counts {
			messages += c.Messages
			consumers += c.Consumers
		}
	}
	return messages, consumers, err
}

// errNoLogin refuses what only the client's own permissions can allow, when its
// mechanism carries nothing that can be used again.
var errNoLogin = &shard.Refused{Code: accessRefused, Text: "this needs a login with PLAIN or AMQPLAIN, which the proxy can use for the shards"}

// Purge empties all shards, as login.
func (n *Node) Purge(ctx context.Context, name shard.Name, login shard.Login) (messages int, err error) {
	s, err := n.find(name)
	if err != nil {
		return 0, err
	}
	if login.User == "" {
		return 0, errNoLogin
	}
	ctx, cancel := n.errand(ctx)
	defer cancel()
	for k, queues := range n.parts(s) {
		purged, failed := k.Purge(ctx, name.VHost, queues, login)
		messages += purged
		err = errors.Join(err, failed)
	}
	return messages, err
}

// Destroy deletes all shards, as login, unless any has consumers (ifUnused) or
// messages (ifEmpty). The stream has no shards then until it is declared again.
// Between the look and the deed somebody may come: the look is not a lock.
func (n *Node) Destroy(ctx context.Context, name shard.Name, login shard.Login, ifUnused, ifEmpty bool) (messages int, err error) {
	s, err := n.find(name)
	if err != nil {
		return 0, err
	}
	if login.User == "" {
		return 0, errNoLogin
	}
	held, consumers, err := n.Count(ctx, name, login)
	switch {
	case err != nil:
		return 0, err
	case ifUnused && consumers > 0:
		return 0, &shard.Refused{Code: preconditionFailed, Text: fmt.Sprintf("stream '%s' in vhost '%s' in use", name.Stream, name.VHost)}
	case ifEmpty && held > 0:
		return 0, &shard.Refused{Code: preconditionFailed, Text: fmt.Sprintf("stream '%s' in vhost '%s' is not empty", name.Stream, name.VHost)}
	}
	ctx, cancel := n.errand(ctx)
	defer cancel()
	parts := n.parts(s)
	unlock, err := s.lock(ctx) // a healer must not make again what is deleted here
	if err != nil {
		return 0, err
	}
	defer unlock()
	for k, queues := range parts {
		deleted, failed := k.Delete(ctx, name.VHost, queues, login)
		messages += deleted
		err = errors.Join(err, failed)
	}
	if err != nil {
		return messages, err
	}
	n.mu.Lock()
	fact := s.fact
	fact.Destroyed = true
	n.set(streamKey(name), fact)
	n.mu.Unlock()
	n.reconcile()
	n.save()
	n.log.Info("the stream's shards were deleted by a client", zap.String("stream", name.Stream), zap.String("vhost", name.VHost))
	return messages, nil
}
