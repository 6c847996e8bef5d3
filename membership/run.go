package membership

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// leaveTimeout is how long the others are given to hear that we go.
const leaveTimeout = 3 * time.Second

// Run makes States of what memberlist reports, sends our facts, and joins again
// who was lost, until ctx is done. Then it says goodbye and ends gossip.
func (c *Cluster) Run(ctx context.Context) {
	rejoin := time.NewTimer(c.jitter())
	defer rejoin.Stop()
	for {
		select {
		case <-ctx.Done():
			c.leave()
			return
		case <-c.poke:
			c.look()
			c.sendFacts()
		case <-rejoin.C:
			if c.list == nil {
				continue // nobody to join, ever
			}
			if _, err := c.tryJoin(c.others(true)); err != nil {
				c.log.Debug("some proxies can't be found", zap.Error(err))
			}
			c.look()
			rejoin.Reset(c.jitter())
		}
	}
}

func (c *Cluster) jitter() time.Duration {
	return c.cfg.RejoinEvery/2 + rand.N(c.cfg.RejoinEvery)
}

// Flush returns when every member was sent what was set before, or could not be
// reached.
func (c *Cluster) Flush() {
	if c.list == nil {
		return
	}
	c.look()
	c.sendFacts()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.sending > 0 {
		c.idle.Wait()
	}
}

// Drop ends gossip at once, so that the others find out by themselves: for who plays the
// end of the process. Run must still be ended.
func (c *Cluster) Drop() {
	c.mu.Lock()
	drop := c.list != nil && !c.leaving && !c.dropped
	c.dropped = c.dropped || drop
	c.mu.Unlock()
	if drop {
		c.shutdown()
	}
}

func (c *Cluster) shutdown() {
	if err := c.list.Shutdown(); err != nil {
		c.log.Warn("gossip did not end well", zap.Error(err))
	}
}

func (c *Cluster) isDropped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

func (c *Cluster) leave() {
	c.mu.Lock()
	c.leaving = c.list != nil && !c.dropped
	c.mu.Unlock()
	if !c.leaving { // which nobody else sets
		return
	}
	c.Flush()
	if err := c.list.Leave(leaveTimeout); err != nil {
		c.log.Debug("not everybody heard that we leave", zap.Error(err))
	}
	c.shutdown()
}

// wake pokes Run.
func (c *Cluster) wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// event is what memberlist said of a member: a copy, since it changes its own.
type event struct {
	id    string
	gone  bool
	node  string
	addr  string
	reach memberlist.Node
}

// noted keeps an event for look. It is called under memberlist's lock.
func (c *Cluster) noted(n *memberlist.Node, gone bool) {
	e := event{id: n.Name, gone: gone, addr: n.Address(),
		reach: memberlist.Node{Name: n.Name, Addr: slices.Clone(n.Addr), Port: n.Port}}
	var m meta
	if json.Unmarshal(n.Meta, &m) != nil {
		return
	}
	e.node = m.Node
	c.noting.Lock()
	c.events = append(c.events, e)
	c.noting.Unlock()
	c.wake()
}

// look makes a new State of what was noted.
func (c *Cluster) look() {
	c.noting.Lock()
	events := c.events
	c.events = nil
	c.noting.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	c.facts.forget(now)
	c.stirs += len(events)
	for _, e := range events {
		m, known := c.members[e.id]
		switch {
		case !e.gone:
			if !known || m.Presence != Alive {
				m.Since = now
				c.tellOurs(e.id)
			}
			c.members[e.id] = Member{ID: e.id, Node: e.node, Addr: e.addr, Presence: Alive, Since: m.Since, reach: e.reach}
			c.replace(e.id)
		case known && m.Presence == Alive:
			m.Presence, m.Since = Lost, now
			c.members[e.id] = m
		}
	}
	c.picture()
}

// replace drops lost members whose node is there again under another identity.
func (c *Cluster) replace(id string) {
	for other, m := range c.members {
		if other != id && m.Presence == Lost && m.Node == c.members[id].Node {
			delete(c.members, other)
		}
	}
}

// picture makes State new. c.mu is held.
func (c *Cluster) picture() {
	c.state = &State{
		Self:    c.cfg.ID,
		Members: slices.SortedFunc(maps.Values(c.members), func(a, b Member) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID)) }),
		Facts:   maps.Clone(c.facts.all),
		Digest:  c.facts.digest(),
		Lasting: c.facts.lasting,
		Stirs:   c.stirs,
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// tellOurs has a member that was not there told all facts that are ours: it may
// have joined somebody who does not know them. c.mu is held.
func (c *Cluster) tellOurs(id string) {
	if id == c.cfg.ID {
		return
	}
	for key, f := range c.facts.all {
		if f.Owner == c.cfg.ID {
			c.senderTo(id).keys[key] = true
		}
	}
}

// sender brings facts to one member. One at a time, so that a member that is
// slow to answer holds up nobody but itself.
type sender struct {
	keys map[string]bool
	busy bool
}

func (c *Cluster) senderTo(id string) *sender {
	s := c.senders[id]
	if s == nil {
		s = &sender{keys: map[string]bool{}}
		c.senders[id] = s
	}
	return s
}

// sendFacts gives every member the facts that were set here since.
func (c *Cluster) sendFacts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped {
		return
	}
	for id, m := range c.members {
		if id == c.cfg.ID || m.Presence != Alive {
			continue
		}
		s := c.senderTo(id)
		maps.Copy(s.keys, c.unsent)
		if len(s.keys) > 0 && !s.busy {
			s.busy = true
			c.sending++
			go c.send(id, s) // joined by Flush
		}
	}
	clear(c.unsent)
}

// send brings a member its facts until there are none left. One that fails is
// left to the next exchange of all facts.
func (c *Cluster) send(id string, s *sender) {
	for {
		c.mu.Lock()
		m, known := c.members[id] // which may have come back at another address
		if len(s.keys) == 0 || !known || c.dropped {
			s.busy = false
			if c.sending--; c.sending == 0 {
				c.idle.Broadcast()
			}
			c.mu.Unlock()
			return
		}
		out := c.facts.list(c.cfg.Now(), slices.Collect(maps.Keys(s.keys))...)
		clear(s.keys)
		c.mu.Unlock()
		b, err := json.Marshal(out)
		if err == nil {
			err = c.list.SendReliable(&m.reach, b)
		}
		if err != nil {
			c.log.Debug("facts did not reach a member", zap.String("to", m.Addr), zap.Error(err))
		}
	}
}

// take merges facts from others.
func (c *Cluster) take(b []byte) {
	var in []Fact
	if err := json.Unmarshal(b, &in); err != nil {
		c.log.Warn("facts that can't be read", zap.Error(err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.facts.merge(in, c.cfg.Now())) > 0 {
		c.picture()
	}
}

// delegate is what memberlist calls.
type delegate struct{ c *Cluster }

func (d *delegate) NodeMeta(limit int) []byte {
	b, err := json.Marshal(meta{Node: d.c.cfg.Node})
	if err != nil || len(b) > limit {
		return nil
	}
	return b
}

func (d *delegate) NotifyMsg(b []byte)                { d.c.take(bytes.Clone(b)) }
func (d *delegate) GetBroadcasts(int, int) [][]byte   { return nil }
func (d *delegate) MergeRemoteState(b []byte, _ bool) { d.c.take(b) }

func (d *delegate) LocalState(bool) []byte {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	b, err := json.Marshal(d.c.facts.list(d.c.cfg.Now()))
	if err != nil {
		return []byte("[]")
	}
	return b
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.c.noted(n, false) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.c.noted(n, false) }
func (d *delegate) NotifyLeave(n *memberlist.Node)  { d.c.noted(n, true) }

// NotifyMerge refuses members that are no amqproxy.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, p := range peers {
		var m meta
		if err := json.Unmarshal(p.Meta, &m); err != nil || m.Node == "" {
			return errNotOurs
		}
	}
	return nil
}
