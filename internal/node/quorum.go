package node

import (
	"context"
	"time"

	"go.uber.org/zap"

	"amqproxy/shard"
)

const (
	// leaderEvery is how often it is asked whether a quorum shard is led, and
	// leaderTimeout how long the answer may take: an election takes less than a
	// second.
	leaderEvery   = time.Second
	leaderTimeout = 1500 * time.Millisecond
)

// leader is what is known of the leader of a quorum shard whose node does not serve.
// Until it is known, there is one. Guarded by Node.mu.
type leader struct {
	asked  time.Time // when the last question was put
	asking bool      // it is not answered yet: without a leader the broker does not answer at all
	none   bool
}

// ready are the shards of a stream that take messages. n.mu is held.
func (n *Node) ready(name shard.Name, p placement, serves map[string]bool) []shard.Shard {
	return p.ready(serves, func(node, queue string) bool {
		if n.members[node].condition == Stopping && n.streams[name].settings.Consumers == shard.ConsumeLocal {
			return false // nobody would read them
		}
		l := n.quorum[shard.Queue{VHost: name.VHost, Name: queue}]
		return l == nil || !l.none
	})
}

// watchLeaders asks after the quorum shards whose nodes do not serve.
func (n *Node) watchLeaders(ctx context.Context, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted, changed := map[shard.Queue]bool{}, false
	for name, s := range n.streams {
		for node, shards := range s.place.shards {
			if n.members[node].serves(now, n.cfg.LostGrace, n.dead[node], s.settings) {
				continue
			}
			for _, sh := range shards {
				// Of one with a single active consumer nobody can tell: it stays.
				if !sh.Quorum || n.condition != Running || s.settings.QueueArguments["x-single-active-consumer"] == true {
					continue
				}
				at := shard.Queue{VHost: name.VHost, Name: sh.Queue}
				wanted[at] = true
				changed = n.askLeader(ctx, now, s, at) || changed
			}
		}
	}
	for at := range n.quorum {
		if !wanted[at] {
			delete(n.quorum, at)
			changed = true
		}
	}
	if changed {
		n.republish()
	}
}

// askLeader puts the question again, or notices that there is no answer to the last
// one; true if that is news. n.mu is held.
func (n *Node) askLeader(ctx context.Context, now time.Time, s *stream, at shard.Queue) (news bool) {
	l := n.quorum[at]
	if l == nil {
		l = &leader{}
		n.quorum[at] = l
	}
	switch {
	case l.asking && !l.none && now.Sub(l.asked) > leaderTimeout:
		l.none = true
		n.log.Warn("a quorum shard has no leader: it leaves the tables", zap.String("queue", at.Name), zap.String("vhost", at.VHost))
		return true
	case l.asking || now.Sub(l.asked) < leaderEvery:
		return false
	}
	l.asking, l.asked = true, now
	n.working.Go(func() {
		err := n.keeper.Led(ctx, at.VHost, at.Name, s.settings.Local)
		n.mu.Lock()
		defer n.mu.Unlock()
		l.asking = false
		if none := err != nil && ctx.Err() == nil; none != l.none {
			l.none = none
			n.republish()
		}
	})
	return false
}
