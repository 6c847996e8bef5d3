package demo

import (
	"cmp"
	"slices"
	"time"

	"amqproxy/shard"
)

// picture is what there is to see at a moment.
type picture struct {
	at        time.Duration // since the story began
	nodes     []nodePicture
	shards    []shardPicture
	clients   []clientPicture
	counts    counts
	confirmed float64 // a second
	delivered float64
	events    []event
}

type nodePicture struct {
	name, addr, admin string
	broker, proxy     bool
}

type shardPicture struct {
	node    int // of the site
	index   int
	used    bool
	keys    []int   // the home nodes of the keys that are here, sorted
	rate    float64 // messages a second that come in
	waiting int
	reader  string
}

type clientPicture struct {
	name, at string // at is "" for one that is not connected
	dead     bool
}

// camera makes pictures of a story, and remembers what the rates need.
type camera struct {
	story   *story
	samples []sample // of the last seconds, the oldest first
}

// window is what rates are averaged over.
const window = 2 * time.Second

type sample struct {
	at     time.Duration
	counts counts
	stored map[string]uint64
}

func (c *camera) shoot() picture {
	s := c.story
	p := picture{at: time.Since(s.began), counts: s.ledger.total()}
	for _, n := range s.site.nodes {
		p.nodes = append(p.nodes, nodePicture{n.name, n.addr(), n.admin(), n.hasBroker(), n.hasProxy()})
	}
	now := sample{p.at, p.counts, map[string]uint64{}}
	waiting := map[string]int{}
	for _, q := range s.shards() {
		now.stored[q.Name] = q.Stored
		waiting[q.Name] = q.Ready + q.Unacked
	}
	c.samples = append(c.samples, now)
	for c.samples[0].at < p.at-window {
		c.samples = c.samples[1:]
	}
	then := c.samples[0]
	rate := func(new, old uint64) float64 {
		if now.at == then.at {
			return 0
		}
		return float64(new-old) / (now.at - then.at).Seconds()
	}
	p.confirmed = rate(uint64(now.counts.Confirmed), uint64(then.counts.Confirmed))
	p.delivered = rate(uint64(now.counts.Delivered), uint64(then.counts.Delivered))
	readers := s.readers()
	for i, n := range s.site.nodes {
		for index := range shardsPerNode {
			name := shard.QueueName(prefix, stream, n.name, index)
			p.shards = append(p.shards, shardPicture{node: i, index: index, used: n.hasBroker(), waiting: waiting[name],
				rate: rate(now.stored[name], then.stored[name]), reader: readers[name], keys: s.keysOn(name)})
		}
	}
	p.clients = s.clientsNow()
	s.mu.Lock()
	defer s.mu.Unlock()
	p.events = slices.Clone(s.events)
	return p
}

// keysOn are the homes of the keys that are on a shard now.
func (s *story) keysOn(queue string) (homes []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.keys {
		if s.now[key].Queue == queue {
			homes = append(homes, slices.Index(nodeNames[:], s.home[key].Node))
		}
	}
	slices.Sort(homes)
	return homes
}

func (s *story) clientsNow() (all []clientPicture) {
	for _, p := range s.producers {
		at, _ := p.where()
		all = append(all, clientPicture{name: p.name, at: at})
	}
	for _, c := range s.consumers {
		at, _ := c.where()
		all = append(all, clientPicture{name: c.name, at: at, dead: !c.lives.Load()})
	}
	slices.SortFunc(all, func(a, b clientPicture) int { return cmp.Compare(a.name, b.name) })
	return all
}
