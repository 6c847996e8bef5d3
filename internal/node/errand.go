package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/membership"
	"amqproxy/shard"
)

const (
	accessRefused      = 403
	notFound           = 404
	preconditionFailed = 406
)

// errand bounds an errand of a session's. The session's end does not cut it
// short: other sessions' errands use the same connection.
func (n *Node) errand(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), n.cfg.DeclareTimeout)
}

// noStream is what a name that matches a policy is instead.
type noStream struct {
	verdict shard.Verdict // Absent, or Ordinary: an exchange of another kind
	until   time.Time
}

// change is an exchange that is being declared or deleted. Until it is done, who
// uses the name waits in Learn: the broker confirms what it drops meanwhile.
type change struct {
	holders  int
	deleting bool
}

// Begin says that a stream's exchange is about to be declared or deleted. If held,
// Make, Forget or Abandon has to end it. A declare of a stream that is in use
// holds nothing up. What is being deleted can't be declared at the same time.
func (n *Node) Begin(ctx context.Context, name shard.Name, deleting bool) (held bool, err error) {
	ctx, cancel := n.errand(ctx)
	defer cancel()
	err = n.until(ctx, func() bool {
		c := n.changes[name]
		if c != nil && (deleting || c.deleting) {
			return false
		}
		held = n.hold(name, c, deleting)
		return true
	})
	if err != nil {
		return false, &shard.Refused{Code: preconditionFailed, Text: fmt.Sprintf(
			"exchange '%s' in vhost '%s' is being changed by somebody else", name.Stream, name.VHost)}
	}
	return held, nil
}

// hold holds up the users of a name, unless it is for the declare of a stream that
// is in use. n.mu is held.
func (n *Node) hold(name shard.Name, c *change, deleting bool) bool {
	s := n.streams[name]
	switch {
	case c != nil:
	case !deleting && s != nil && len(s.place.shards) > 0:
		return false
	default:
		c = &change{deleting: deleting}
		n.changes[name] = c
		n.republish()
	}
	c.holders++
	return true
}

// Abandon ends what Begin began and nothing came of.
func (n *Node) Abandon(name shard.Name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.release(name)
}

// release ends a hold on a name. n.mu is held.
func (n *Node) release(name shard.Name) {
	c := n.changes[name]
	if c == nil {
		return
	}
	if c.holders--; c.holders <= 0 {
		delete(n.changes, name)
		n.republish()
	}
}

// until waits for something that every new Snapshot may bring. ready is called
// with n.mu held.
func (n *Node) until(ctx context.Context, ready func() bool) error {
	for {
		n.mu.Lock()
		news := n.news
		done := ready()
		n.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Make makes a stream that a client has declared; its exchange is there. It
// returns when the shards of this node and of every node that is alive are ready,
// or when the time for it is over: the late ones join the table when they come.
// held is what Begin said.
func (n *Node) Make(ctx context.Context, name shard.Name, asked shard.Declared, held bool) error {
	if held {
		defer n.Abandon(name)
	}
	ctx, cancel := n.errand(ctx)
	defer cancel()
	return n.make(ctx, name, asked)
}

func (n *Node) make(ctx context.Context, name shard.Name, asked shard.Declared) error {
	s, err := n.born(name, asked)
	if err != nil {
		return err
	}
	if err := n.ensure(ctx, s); err != nil {
		return n.explain(name, err)
	}
	n.reconcile()
	n.save()
	missing := ""
	if n.until(ctx, func() bool { missing = n.missing(name); return missing == "" }) != nil {
		n.log.Warn("a node's shards were not ready in time; they join later", zap.String("stream", name.Stream),
			zap.String("vhost", name.VHost), zap.String("node", missing))
	}
	return n.equivalent(name, asked) // another node's declare of the same moment may have won
}

// born tells everybody of a stream, unless it is known, and finds it here.
func (n *Node) born(name shard.Name, asked shard.Declared) (*stream, error) {
	settings, match := n.cfg.Rules.Match(name.VHost, name.Stream)
	if !match {
		return nil, fmt.Errorf("no policy makes a stream of '%s' in vhost '%s'", name.Stream, name.VHost)
	}
	if _, err := shard.LocalQueues(settings, name.Stream, n.cfg.Name); err != nil {
		return nil, &shard.Refused{Code: preconditionFailed, Text: err.Error()}
	}
	if err := n.equivalent(name, asked); err != nil {
		return nil, err
	}
	n.mu.Lock()
	f, live := read[streamFact](n.cluster.State(), streamKey(name))
	if !live {
		f.Born = rand.Text()
	}
	if !live || f.Type == "" && asked.Type != "" {
		f.Type, f.Durable, f.HashOn = asked.Type, asked.Durable, asked.HashOn.String()
	}
	f.Destroyed = false
	if n.streams[name] == nil {
		s := n.newStream(name)
		s.dueAt = time.Now().Add(n.cfg.DeclareTimeout) // who asks makes it; Run is to leave it to him
		n.streams[name] = s
		delete(n.none, name)
	}
	n.set(streamKey(name), f)
	n.mu.Unlock()
	n.reconcile()
	return n.find(name)
}

// equivalent refuses a declare that differs from the first.
func (n *Node) equivalent(name shard.Name, asked shard.Declared) error {
	t := n.Snapshot().Tables()[name]
	if t == nil || asked.Type == "" {
		return nil
	}
	if err := t.Equivalent(asked); err != nil {
		return &shard.Refused{Code: preconditionFailed, Text: err.Error()}
	}
	return nil
}

// missing is a node that runs or is about to, and has no shards of the stream ready; "" if none.
func (n *Node) missing(name shard.Name) string {
	s := n.streams[name]
	if s == nil {
		return ""
	}
	for node, m := range n.members {
		if m.presence == membership.Alive && (m.condition == Running || m.condition == Starting) && len(s.place.shards[node]) == 0 {
			return node
		}
	}
	return ""
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
	return errors.Join(&shard.Refused{Code: preconditionFailed, Text: fmt.Sprintf("stream '%s' can't be made: %s", name.Stream, text)}, err)
}

// Forget says that a stream's exchange was deleted. Its shards and their messages
// stay at the brokers. It returns when the other nodes have heard it.
func (n *Node) Forget(_ context.Context, name shard.Name) error {
	defer n.Abandon(name) // a delete is always held
	n.set(streamKey(name), nil)
	n.reconcile()
	n.save()
	n.cluster.Flush()
	return nil
}

// Learn finds out what a name is that matches a policy: it waits while the name
// is being changed or made, and asks the broker about one that nobody remembers.
// When it returns nil the Snapshot knows.
func (n *Node) Learn(ctx context.Context, name shard.Name) error {
	ctx, cancel := n.errand(ctx)
	defer cancel()
	err := n.until(ctx, func() bool {
		s, t := n.streams[name], n.Snapshot().Tables()[name]
		// Nothing serves it yet, and something may within a moment.
		coming := s != nil && (t == nil || len(t.Shards) == 0) && (s.state == Making || n.condition == BrokerDown || n.condition == Starting)
		return n.changes[name] == nil && !coming && (s == nil || s.whole)
	})
	if err != nil {
		return &shard.Refused{Code: preconditionFailed, Text: fmt.Sprintf("stream '%s' in vhost '%s' is still being made", name.Stream, name.VHost)}
	}
	switch _, verdict := n.Snapshot().Find(name.VHost, name.Stream); verdict {
	case shard.IsStream, shard.Ordinary:
		return nil
	}
	return n.discover(ctx, name)
}

// discover asks the broker about a name, and adopts the stream that it is.
func (n *Node) discover(ctx context.Context, name shard.Name) error {
	settings, match := n.cfg.Rules.Match(name.VHost, name.Stream)
	if !match {
		return nil
	}
	exists, err := n.keeper.Exists(ctx, name, settings.Local)
	if err != nil {
		return n.explain(name, err)
	}
	if !exists {
		n.isNone(name, shard.Absent)
		return nil
	}
	err = n.make(ctx, name, shard.Declared{})
	if !errors.Is(err, keeper.ErrOtherExchange) {
		return err
	}
	// It goes on as what it is.
	n.log.Warn("an exchange matches a policy and is no stream's: delete it and declare it again to make one",
		zap.String("exchange", name.Stream), zap.String("vhost", name.VHost), zap.Error(err))
	n.isNone(name, shard.Ordinary)
	n.set(streamKey(name), nil)
	n.reconcile()
	return nil
}

// isNone remembers for a while what a name is instead of a stream.
func (n *Node) isNone(name shard.Name, what shard.Verdict) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.none) >= maxNone {
		clear(n.none)
	}
	n.none[name] = noStream{what, time.Now().Add(noneFor)}
	n.republish()
}
