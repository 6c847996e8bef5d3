package node

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/membership"
	"amqproxy/shard"
)

// A shard retires when this node's configuration does not want it any more. It
// leaves every table at once, is unbound when all have said that they know, and is read
// through its stream until it is empty. To delete it then is safe only while nobody
// holds a delivery of it that is not acknowledged, which the broker does not tell:
//
//	retired   it was counted empty twice                                   ─► closing
//	closing   every proxy moves its consumers away, and says in a holdsFact when
//	          it has none and holds nothing                                ─► free
//	free      it is still empty and without consumers, twice               ─► deleted
//	closing, free   a message came back                                    ─► retired

// emptyTwice is how often in a row a shard has to be seen empty.
const emptyTwice = 2

// retiree is a retired shard of this node. Guarded by Node.mu.
type retiree struct {
	queue          string
	quorum, single bool   // see shardFact
	closing        string // see retiredFact
	unbound        bool
	empty          int // how often in a row it was seen empty
}

// readable are the retired shards that are read through the stream: those of this node, or
// where the consumers are a group, of all.
func (s *stream) readable() (all []shard.Shard) {
	if s.settings.Consumers != shard.ConsumeLocal {
		return slices.DeleteFunc(s.everywhere(), func(sh shard.Shard) bool { return !sh.Retired })
	}
	for _, r := range s.retired {
		if r.closing == "" {
			all = append(all, shard.Shard{Queue: r.queue, Node: s.node, Weight: 1, Local: true, Retired: true})
		}
	}
	return all
}

// standings tells what queues are as shards, and when those close that are retired, see
// retiredFact: of all streams, for a client may read any queue by its name.
func (told said) standings() (queues map[shard.Queue]shard.Standing, retired map[shard.Name]map[string]string) {
	queues, retired = map[shard.Queue]shard.Standing{}, map[shard.Name]map[string]string{}
	for at, f := range told {
		for _, sh := range f.Shards {
			queues[shard.Queue{VHost: at.stream.VHost, Name: sh.Queue}] = shard.InUse
		}
		for _, r := range f.Retired {
			standing := shard.Retired
			if r.Closing != "" {
				standing = shard.Closing
			}
			queues[shard.Queue{VHost: at.stream.VHost, Name: r.Queue}] = standing
			if retired[at.stream] == nil {
				retired[at.stream] = map[string]string{}
			}
			retired[at.stream][r.Queue] = r.Closing
		}
	}
	return queues, retired
}

// retire compares what this node has told of its shards with what its configuration
// wants, and tells the difference: weights, and shards that retire. n.mu is held.
func (n *Node) retire(s *stream) {
	told := s.place.own
	var ready []string
	var extra []retiree
	for _, sh := range told.Shards {
		if slices.Contains(s.queues, sh.Queue) {
			ready = append(ready, sh.Queue)
		} else {
			extra = append(extra, retiree{queue: sh.Queue, quorum: sh.Quorum, single: sh.Single})
		}
	}
	for _, r := range told.Retired {
		extra = append(extra, retiree{queue: r.Queue, quorum: r.Quorum, single: r.Single})
	}
	n.addRetired(s, extra)
	now := s.says(told.Born, ready)
	if told.Born == "" || slices.Equal(now.Shards, told.Shards) && slices.Equal(now.Retired, told.Retired) {
		return
	}
	n.announce(s, told.Born, ready)
	s.place.retired[n.cfg.Name] = now.Retired
	if now.Born == s.fact.Born && !s.place.ended {
		s.place.shards[n.cfg.Name] = now.shards(n.cfg.Name, true)
	}
}

// addRetired notes shards that are not wanted. n.mu is held.
func (n *Node) addRetired(s *stream, extra []retiree) {
	s.retired = slices.DeleteFunc(s.retired, func(r *retiree) bool { return slices.Contains(s.queues, r.queue) }) // wanted again
	for _, e := range extra {
		if slices.Contains(s.queues, e.queue) || slices.ContainsFunc(s.retired, func(r *retiree) bool { return r.queue == e.queue }) {
			continue
		}
		n.log.Info("a shard is retired: it takes no messages and is read until it is empty", zap.String("queue", e.queue), zap.String("vhost", s.name.VHost))
		s.retired = append(s.retired, &e)
	}
}

// queueName is the name of this node's shard with an index.
func (s *stream) queueName(index int) string {
	return shard.QueueName(s.settings.QueuePrefix, s.name.Stream, s.node, index)
}

// drain looks after the retired shards of a stream.
func (n *Node) drain(ctx context.Context, s *stream) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if queues, unbind := n.retired(s); len(queues) > 0 {
		err = n.drainAll(ctx, s, queues, unbind)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.log.Warn("retired shards can't be looked after", zap.String("stream", s.name.Stream), zap.String("vhost", s.name.VHost), zap.Error(err))
		s.drainAt = time.Now().Add(retryMax) // the others are healed meanwhile
	}
	if s.state == Ended {
		s.dueAt = time.Now().Add(n.healPause())
	}
}

func (n *Node) drainAll(ctx context.Context, s *stream, queues, unbind []string) error {
	if err := n.keeper.Unbind(ctx, s.name, unbind, s.settings.Local); err != nil {
		return err
	}
	counts, err := n.keeper.Count(ctx, s.name.VHost, queues, s.settings.Local)
	if err != nil {
		return err
	}
	n.look(s, unbind, queues, counts)
	return n.bury(ctx, s)
}

// retired are the queues of the retired shards, if it is their time, and those that
// are to be unbound.
func (n *Node) retired(s *stream) (all, unbind []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Now().Before(s.drainAt) {
		return nil, nil
	}
	for _, r := range s.retired {
		all = append(all, r.queue)
		if !r.unbound && n.all(s.name, func(f holdsFact) bool { return slices.Contains(f.Left, r.queue) }) {
			unbind = append(unbind, r.queue)
		}
	}
	return all, unbind
}

// look takes in what the broker says of retired shards.
func (n *Node) look(s *stream, unbound, queues []string, counts []keeper.Counts) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := false
	for _, r := range s.retired {
		at := slices.Index(queues, r.queue)
		if at < 0 {
			continue // it has retired meanwhile
		}
		c := counts[at]
		r.unbound = r.unbound || slices.Contains(unbound, r.queue)
		was := r.closing
		switch {
		case c.Gone:
			r.queue = ""
		case c.Missing: // its node is down
			r.empty = 0
		case c.Messages > 0 || !r.unbound || n.holds[shard.Queue{VHost: s.name.VHost, Name: r.queue}] > 0:
			r.empty, r.closing = 0, ""
		case r.closing != "" && (c.Consumers > 0 || !n.free(s, r)):
			r.empty = 0
		default:
			r.empty++
		}
		if r.closing == "" && r.empty >= emptyTwice {
			r.closing, r.empty = rand.Text(), 0
		}
		changed = changed || r.closing != was || r.queue == ""
	}
	if changed {
		n.dropRetired(s, "")
	}
}

// free tells whether every proxy has said that nothing of its sessions is left on a
// shard that closes. n.mu is held.
func (n *Node) free(s *stream, r *retiree) bool {
	return n.all(s.name, func(f holdsFact) bool { return f.Free[r.queue] == r.closing })
}

// all tells whether every proxy has said something. One that has ended in order has no
// sessions, and those of one whose broker is down too have no deliveries. n.mu is held.
func (n *Node) all(name shard.Name, has func(holdsFact) bool) bool {
	st := n.cluster.State()
	for node, m := range n.members {
		if m.presence == membership.Lost && (m.condition == Stopping || n.dead[node]) {
			continue
		}
		if f, _ := read[holdsFact](st, holdsKey(name, node)); !has(f) {
			return false
		}
	}
	return true
}

// bury deletes the shards whose time has come.
func (n *Node) bury(ctx context.Context, s *stream) error {
	n.mu.Lock()
	var idle []*retiree
	for _, r := range s.retired {
		if r.closing != "" && r.empty >= emptyTwice {
			idle = append(idle, r)
		}
	}
	n.mu.Unlock()
	for _, r := range idle {
		deleted, err := n.keeper.DeleteIdle(ctx, s.name.VHost, r.queue, s.settings.Local)
		if err != nil {
			return err
		}
		n.mu.Lock()
		if deleted {
			n.log.Info("a retired shard was empty and is deleted", zap.String("queue", r.queue), zap.String("vhost", s.name.VHost))
			n.dropRetired(s, r.queue)
		} else {
			r.empty, r.closing = 0, "" // somebody came to it in the last moment
			n.dropRetired(s, "")
		}
		n.mu.Unlock()
	}
	return nil
}

// dropRetired forgets a retired shard and tells everybody. The last of a stream that
// has ended takes the stream with it. n.mu is held.
func (n *Node) dropRetired(s *stream, queue string) {
	s.retired = slices.DeleteFunc(s.retired, func(r *retiree) bool { return r.queue == queue || r.queue == "" })
	if s.gone {
		return
	}
	var ready []string
	for _, sh := range s.place.own.Shards {
		ready = append(ready, sh.Queue)
	}
	n.announce(s, s.place.own.Born, ready)
	if s.state != Ended || len(s.retired) > 0 {
		return
	}
	n.withdraw(s.name)
	st := n.cluster.State()
	for key := range st.Facts {
		if kind, name, _, ok := parseKey(key); ok && kind == "shards" && name == s.name {
			if _, live := read[shardsFact](st, key); live {
				return
			}
		}
	}
	n.set(streamKey(s.name), nil)
}

// Hold says that a session has unacknowledged deliveries of a shard, Free that it
// has none any more.
func (n *Node) Hold(vhost, queue string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holds[shard.Queue{VHost: vhost, Name: queue}]++
}

func (n *Node) Free(vhost, queue string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	less(n.holds, shard.Queue{VHost: vhost, Name: queue})
}

// Walk begins a walk over the sessions that has each go by the Snapshot of now or a
// newer one, and done ends it. Then this node tells which retired shards its sessions
// know of, and of which that close none of them has anything. Those that have retired or
// closed meanwhile are for the next walk: a session may go by a Snapshot of before.
func (n *Node) Walk() (done func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	began := n.retiring
	return func() { n.walked(began) }
}

func (n *Node) walked(began map[shard.Name]map[string]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, retired := range n.retiring {
		f := holdsFact{Free: map[string]string{}}
		for queue, closing := range retired {
			before, known := began[name][queue]
			at := shard.Queue{VHost: name.VHost, Name: queue}
			if known {
				f.Left = append(f.Left, queue)
			}
			if known && closing != "" && closing == before && n.seats[at] == 0 && n.holds[at] == 0 {
				f.Free[queue] = closing
			}
		}
		slices.Sort(f.Left)
		n.set(holdsKey(name, n.cfg.Name), f)
	}
}

// forgetHolds takes back what this node has said of streams none of whose shards is
// retired any more. n.mu is held.
func (n *Node) forgetHolds(st *membership.State) {
	for key := range st.Facts {
		if !strings.HasPrefix(key, "holds/") {
			continue
		}
		if _, name, node, ok := parseKey(key); ok && node == n.cfg.Name && n.retiring[name] == nil {
			n.set(key, nil)
		}
	}
}
