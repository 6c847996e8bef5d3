package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"amqproxy/shard"
)

// The moves of a story: each kills something or brings it back, waits until all have come
// to terms with that, and notes what became of the keys and the shards. What can't be done,
// since it is done already or since it is the last one, is left.

func (s *story) killBroker(ctx context.Context, i int) {
	n := s.site.nodes[i]
	if brokers, _ := s.site.alive(); !n.hasBroker() || brokers == 1 {
		return
	}
	before := s.placed()
	s.note(bad, "broker %s is killed", n.name)
	n.killBroker()
	took, err := s.settle(ctx)
	if err != nil {
		s.late(ctx, "the others go on without broker "+n.name, err)
		return
	}
	its := func(key string) bool { return before[key].Node == n.name }
	m := s.moved(before, its, its)
	s.note(plain, "%s later its %s are on other shards; of the rest %d moved", short(took), count(m.moved, "key"), m.foreign)
	s.goesOn(ctx, "all keys flow without broker "+n.name)
}

func (s *story) restoreBroker(ctx context.Context, i int) {
	n := s.site.nodes[i]
	if n.hasBroker() {
		return
	}
	before := s.placed()
	s.note(good, "broker %s is started again", n.name)
	err := n.startBroker()
	took := time.Duration(0)
	if err == nil {
		took, err = s.settle(ctx)
	}
	if err != nil {
		s.late(ctx, "broker "+n.name+" is back", err)
		return
	}
	m := s.returned(before, n)
	s.note(plain, "%s later %d of its %s are back; of the rest %d moved", short(took), m.moved, count(m.due, "key"), m.foreign)
	s.goesOn(ctx, "all keys flow with broker "+n.name)
}

func (s *story) killProxy(ctx context.Context, i int) {
	n := s.site.nodes[i]
	if _, proxies := s.site.alive(); !n.hasProxy() || proxies == 1 {
		return
	}
	before, readers := s.placed(), s.readers()
	s.note(bad, "proxy %s is killed", n.name)
	n.killProxy()
	took, err := s.flow(ctx)
	given := time.Duration(0)
	if err == nil {
		given, err = within(ctx, soon, func() error { return s.site.gaveUp(n.name) })
	}
	if err == nil {
		_, err = s.settle(ctx)
	}
	if err != nil {
		s.late(ctx, "the others go on without proxy "+n.name, err)
		return
	}
	m := s.moved(before, none, none)
	s.note(plain, "%s later all keys flow again, %s with another consumer", short(took), count(changed(readers, s.readers()), "shard"))
	s.note(plain, "%s later the others have given it up; %s moved", short(took+given), count(m.foreign, "key"))
	s.goesOn(ctx, "each shard is read without proxy "+n.name)
}

func (s *story) restoreProxy(ctx context.Context, i int) {
	n := s.site.nodes[i]
	if n.hasProxy() {
		return
	}
	before := s.placed()
	s.note(good, "proxy %s is started again", n.name)
	err := s.site.startProxy(ctx, n)
	if err == nil {
		_, err = s.settle(ctx)
	}
	if err != nil {
		s.late(ctx, "proxy "+n.name+" is back", err)
		return
	}
	m := s.returned(before, n)
	s.note(plain, "all proxies agree; %s moved", count(m.moved+m.foreign, "key"))
	s.goesOn(ctx, "all keys flow with proxy "+n.name)
}

func (s *story) killConsumer(ctx context.Context, i int) {
	c := s.consumers[i]
	if s.eating() == 1 || !c.lives.Load() {
		return
	}
	before, readers := s.placed(), s.readers()
	s.note(bad, "%s is killed", c.name)
	c.kill()
	took, err := s.read(ctx)
	if err != nil {
		s.late(ctx, "all shards are read without "+c.name, err)
		return
	}
	m := s.moved(before, none, none)
	s.note(plain, "%s later %s had gone to other consumers; %s moved", short(took), count(changed(readers, s.readers()), "shard"), count(m.foreign, "key"))
	s.goesOn(ctx, "all keys flow without "+c.name)
}

func (s *story) restoreConsumer(ctx context.Context, i int) {
	c := s.consumers[i]
	if c.lives.Load() {
		return
	}
	s.note(good, "%s is started again", c.name)
	c.start(ctx)
	took, err := within(ctx, soon, func() error {
		for _, reader := range s.readers() {
			if reader == c.name || !strings.HasPrefix(reader, consumerPrefix) { // a guest may have its shard now
				return nil
			}
		}
		return fmt.Errorf("%s reads no shard", c.name)
	})
	if err != nil {
		s.late(ctx, c.name+" is back", err)
		return
	}
	s.note(plain, "%s later the shards are shared out again", short(took))
	s.goesOn(ctx, "all keys flow with "+c.name)
}

// goesOn waits until each shard is read and each key flows.
func (s *story) goesOn(ctx context.Context, what string) {
	_, err := s.read(ctx)
	if err == nil {
		_, err = s.flow(ctx)
	}
	s.late(ctx, what, err)
}

func none(string) bool { return false }

// returned is moved for what a node has back: when it is whole, so are its keys. To those
// that it gets others may come, whose own node is dead.
func (s *story) returned(before placement, n *node) move {
	now := s.placed()
	whole := n.hasBroker() && n.hasProxy()
	return s.moved(before,
		func(key string) bool { return whole && s.home[key].Node == n.name && before[key].Node != n.name },
		func(key string) bool { return now[key].Node == n.name })
}

// moved notes which keys have moved since before: of those that are due, and of those that
// may not.
func (s *story) moved(before placement, due, may func(key string) bool) (m move) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.keys {
		moves := before[key].Queue != s.now[key].Queue
		if moves {
			s.roamed[key] = true
		}
		if due(key) {
			m.due++
			if moves {
				m.moved++
			}
		}
		if moves && !may(key) {
			m.foreign++
		}
	}
	s.outcome.moves = append(s.outcome.moves, m)
	return m
}

// readers are the consumers that live of the shards of the brokers that run, by queue.
func (s *story) readers() map[string]string {
	up := map[string]bool{}
	for _, n := range s.site.nodes {
		for i := range shardsPerNode {
			up[shard.QueueName(prefix, stream, n.name, i)] = n.hasBroker()
		}
	}
	all := map[string]string{}
	for _, q := range s.shards() {
		if !up[q.Name] || len(q.Readers) == 0 {
			continue
		}
		// An ordered shard has one that is active. Its tag may begin with a capital, when its
		// proxy has consumed anew.
		if tag := strings.ToLower(q.Readers[0]); !s.died(tag) {
			all[q.Name] = tag
		}
	}
	return all
}

// died tells whether a consumer is one of ours, and killed: its broker may not know yet.
func (s *story) died(tag string) bool {
	return slices.ContainsFunc(s.consumers, func(c *consumer) bool { return c.name == tag && !c.lives.Load() })
}

// read waits until each shard of a broker that runs has a consumer.
func (s *story) read(ctx context.Context) (took time.Duration, err error) {
	return within(ctx, soon, func() error {
		brokers, _ := s.site.alive()
		if unread := brokers*shardsPerNode - len(s.readers()); unread > 0 {
			return fmt.Errorf("%d shards have no consumer", unread)
		}
		return nil
	})
}

// count is a number of things.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// changed is how many shards have another reader than they had.
func changed(before, after map[string]string) (n int) {
	for queue, reader := range before {
		if after[queue] != reader {
			n++
		}
	}
	return n
}
