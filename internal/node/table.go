package node

import (
	"maps"
	"slices"
	"time"

	"amqproxy/membership"
	"amqproxy/shard"
)

// member is one node as this one sees it.
type member struct {
	node      string
	condition Condition
	presence  membership.Presence
	since     time.Time
	broker    string
	addr      string
}

// serves tells whether the shards of a node are in the tables: a node that is
// silent keeps its own for the grace, so that a crash and a quick return move no
// key, unless its broker is known to be down.
func (m member) serves(now time.Time, grace time.Duration, brokerDown bool) bool {
	switch {
	case m.condition == BrokerDown || m.condition == Stopping:
		return false
	case m.presence == membership.Alive:
		return true
	case brokerDown:
		return false
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
				all[name] = member{node: name, condition: f.Condition, presence: membership.Lost, since: began, broker: f.Broker}
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
	fact   streamFact
	shards map[string][]shard.Shard // by node
}

// placements reads the streams that a policy wants out of the facts.
func placements(st *membership.State, rules *shard.Rules, self string) map[shard.Name]placement {
	all := map[shard.Name]placement{}
	for key := range st.Facts {
		kind, name, _, ok := parseKey(key)
		if !ok || kind != "stream" {
			continue
		}
		if f, live := read[streamFact](st, key); live {
			if _, match := rules.Match(name.VHost, name.Stream); match {
				all[name] = placement{fact: f, shards: map[string][]shard.Shard{}}
			}
		}
	}
	for key := range st.Facts {
		kind, name, node, ok := parseKey(key)
		p, wanted := all[name]
		if !ok || kind != "shards" || !wanted || p.fact.Destroyed {
			continue
		}
		f, live := read[shardsFact](st, key)
		if !live || f.Born != p.fact.Born {
			continue // of a former life of the stream: their bindings went with it
		}
		for i, s := range f.Shards {
			p.shards[node] = append(p.shards[node], shard.Shard{
				Queue: s.Queue, Node: node, Index: i, Weight: min(max(s.Weight, 1), shard.MaxWeight), Local: node == self})
		}
	}
	return all
}

// ready are the shards of the nodes that serve. If none does, all are: to try is
// better than to refuse, and what can't be reached says so itself.
func (p placement) ready(serves map[string]bool) []shard.Shard {
	var out, all []shard.Shard
	for _, node := range slices.Sorted(maps.Keys(p.shards)) {
		all = append(all, p.shards[node]...)
		if serves[node] {
			out = append(out, p.shards[node]...)
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}
