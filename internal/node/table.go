package node

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"amqproxy/membership"
	"amqproxy/shard"
)

// member is one node as this one sees it.
type member struct {
	node      string
	id        string // the proxy's gossip identity
	condition Condition
	presence  membership.Presence
	since     time.Time
	broker    string
	addr      string
	version   string
}

// reached is how the broker of a node is reached from another node.
func (m member) reached(from member, beside bool) shard.Broker {
	b := shard.Broker{Address: m.broker, Beside: beside}
	if loopback(m.broker) && host(m.addr) != host(from.addr) {
		b.Address = ""
		b.Apart = fmt.Sprintf("node '%s' tells of its broker as %s, which is itself for everybody: it needs broker-advertise", m.node, m.broker)
	}
	return b
}

func host(addr string) string {
	h, _, _ := net.SplitHostPort(addr)
	return h
}

func loopback(addr string) bool {
	ip := net.ParseIP(host(addr))
	return host(addr) == "localhost" || ip != nil && ip.IsLoopback()
}

// serves tells whether the shards of a node are in the tables: a node that is
// silent keeps its own for the grace, so that a crash and a quick return move no
// key, unless its broker is known to be down. Of one that is not silent, its own
// word holds.
//
// Where messages wait for their shards a broker that is down is no reason to send their keys
// elsewhere. And where the consumers are a group, others read the shards of a node whose
// proxy has ended, as long as its broker answers.
func (m member) serves(now time.Time, grace time.Duration, brokerDown bool, s *shard.Settings) bool {
	waits, grouped := s.OnUnavailable == shard.Wait, s.Consumers != shard.ConsumeLocal
	switch {
	case m.condition == Stopping && !grouped || m.condition == BrokerDown && !waits:
		return false
	case m.presence == membership.Alive:
		return true
	case brokerDown && !waits:
		return false
	case grouped && !brokerDown:
		return true
	}
	return now.Sub(m.since) < grace
}

// membersOf joins what gossip and facts say of nodes, by name. A node that is
// known by its facts alone counts as lost since began, when we began to listen.
func membersOf(st *membership.State, began time.Time) map[string]member {
	all := map[string]member{}
	for key := range st.Facts {
		if len(key) > 5 && key[:5] == "node/" {
			if f, ok := read[nodeFact](st, key); ok {
				name := key[5:]
				all[name] = member{node: name, id: f.ID, condition: f.Condition, presence: membership.Lost, since: began, broker: f.Broker, version: f.Version}
			}
		}
	}
	for _, m := range st.Members {
		e := all[m.Node]
		if m.Presence == membership.Alive || e.addr == "" {
			e.node, e.presence, e.since, e.addr = m.Node, m.Presence, m.Since, m.Addr
		}
		all[m.Node] = e
	}
	return all
}

// placement is where the shards of a stream are by the facts, whoever serves.
type placement struct {
	fact    streamFact
	own     shardsFact               // this node's
	ended   bool                     // no policy makes it a stream, and this node has shards of it
	shards  map[string][]shard.Shard // by node
	retired map[string][]retiredFact // by node
}

// said is what the nodes have told of their shards, whatever policies this one has.
type said map[shardsOf]shardsFact

type shardsOf struct {
	stream shard.Name
	node   string
}

func saidOf(st *membership.State) said {
	all := said{}
	for key := range st.Facts {
		if kind, name, node, ok := parseKey(key); ok && kind == "shards" {
			if f, live := read[shardsFact](st, key); live {
				all[shardsOf{name, node}] = f
			}
		}
	}
	return all
}

// placements reads the streams out of the facts that a policy wants, or that have
// shards here for which nobody has told what becomes of them.
func placements(st *membership.State, told said, rules *shard.Rules, self string) map[shard.Name]placement {
	all := map[shard.Name]placement{}
	for key := range st.Facts {
		kind, name, _, ok := parseKey(key)
		if !ok || kind != "stream" {
			continue
		}
		f, live := read[streamFact](st, key)
		if !live {
			continue
		}
		own := told[shardsOf{name, self}]
		_, match := rules.Match(name.VHost, name.Stream)
		if match || len(own.Shards)+len(own.Retired) > 0 {
			all[name] = placement{fact: f, own: own, ended: !match, shards: map[string][]shard.Shard{}, retired: map[string][]retiredFact{}}
		}
	}
	for at, f := range told {
		p, wanted := all[at.stream]
		if !wanted || p.fact.Destroyed {
			continue
		}
		p.retired[at.node] = f.Retired
		if f.Born != p.fact.Born || p.ended {
			continue // of a former life of the stream: their bindings went with it
		}
		p.shards[at.node] = f.shards(at.node, at.node == self)
	}
	return all
}

// shards are those of the fact that take messages.
func (f shardsFact) shards(node string, local bool) (all []shard.Shard) {
	for i, s := range f.Shards {
		all = append(all, shard.Shard{Queue: s.Queue, Node: node, Index: i, Weight: min(max(s.Weight, 1), shard.MaxWeight), Local: local, Quorum: s.Quorum, Single: s.Single})
	}
	return all
}

// ready are the shards of the nodes that serve, and quorum shards of others that are
// led. If there is none, all are: to try is better than to refuse, and what can't be
// reached says so itself.
func (p placement) ready(serves map[string]bool, led func(node, queue string) bool) []shard.Shard {
	var out, all []shard.Shard
	for _, node := range slices.Sorted(maps.Keys(p.shards)) {
		all = append(all, p.shards[node]...)
		for _, sh := range p.shards[node] {
			if serves[node] || sh.Quorum && led(node, sh.Queue) {
				out = append(out, sh)
			}
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}
