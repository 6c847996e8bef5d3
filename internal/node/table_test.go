package node

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"amqproxy/membership"
	"amqproxy/shard"
)

var rules = shard.NewRules(shard.Parameters{}, nil, []shard.Policy{{Name: "p", Pattern: regexp.MustCompile(`^s\.`), VHost: "/"}})

// picture is a State of facts: values by key, nil for one that was deleted.
func picture(t *testing.T, facts map[string]any, members ...membership.Member) *membership.State {
	t.Helper()
	st := &membership.State{Facts: map[string]membership.Fact{}, Members: members}
	for k, v := range facts {
		f := membership.Fact{Key: k, Version: 1, Owner: "o"}
		if v != nil {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			f.Value = b
		}
		st.Facts[k] = f
	}
	return st
}

func TestServes(t *testing.T) {
	now := time.Now()
	const grace = 30 * time.Second
	long, short := now.Add(-time.Minute), now.Add(-time.Second)
	for name, c := range map[string]struct {
		m          member
		brokerDown bool
		waits      bool
		grouped    bool
		want       bool
	}{
		"alive":                                          {m: member{condition: Running}, want: true},
		"alive, starting":                                {m: member{condition: Starting}, want: true},
		"its broker is down":                             {m: member{condition: BrokerDown}},
		"alive again, its broker too":                    {m: member{condition: Running}, brokerDown: true, want: true},
		"stopping":                                       {m: member{condition: Stopping}},
		"lost a moment ago":                              {m: member{condition: Running, presence: membership.Lost, since: short}, want: true},
		"lost a moment ago with its node":                {m: member{condition: Running, presence: membership.Lost, since: short}, brokerDown: true},
		"lost for longer than the grace":                 {m: member{condition: Running, presence: membership.Lost, since: long}},
		"its broker is down, and messages wait":          {m: member{condition: BrokerDown}, waits: true, want: true},
		"stopping, and messages wait":                    {m: member{condition: Stopping}, waits: true},
		"lost with its node, and messages wait":          {m: member{condition: BrokerDown, presence: membership.Lost, since: short}, brokerDown: true, waits: true, want: true},
		"lost for long with its node, and messages wait": {m: member{condition: BrokerDown, presence: membership.Lost, since: long}, brokerDown: true, waits: true},
		"stopping, and others read":                      {m: member{condition: Stopping}, grouped: true, want: true},
		"stopped, and others read":                       {m: member{condition: Stopping, presence: membership.Lost, since: long}, grouped: true, want: true},
		"stopped with its broker":                        {m: member{condition: Stopping, presence: membership.Lost, since: short}, grouped: true, brokerDown: true},
		"stopped, and now lost":                          {m: member{condition: Stopping, presence: membership.Lost, since: short}},
	} {
		s := &shard.Settings{}
		if c.waits {
			s.OnUnavailable = shard.Wait
		}
		if c.grouped {
			s.Consumers = shard.ConsumeOrdered
		}
		if got := c.m.serves(now, grace, c.brokerDown, s); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPlacements(t *testing.T) {
	a, b, other := shard.Name{VHost: "/", Stream: "s.a"}, shard.Name{VHost: "/", Stream: "s.b"}, shard.Name{VHost: "/", Stream: "x"}
	st := picture(t, map[string]any{
		streamKey(a):       streamFact{Born: "1", Type: "topic", Durable: true, HashOn: "header:h"},
		streamKey(b):       nil, // deleted
		streamKey(other):   streamFact{Born: "1"},
		shardsKey(a, "n1"): shardsFact{Born: "1", Shards: []shardFact{{Queue: "q0", Weight: 5}, {Queue: "q1", Weight: 0}}},
		shardsKey(a, "n2"): shardsFact{Born: "0", Shards: []shardFact{{Queue: "old", Weight: 1}}}, // of a former life
		shardsKey(a, "n3"): nil,
		shardsKey(b, "n1"): shardsFact{Born: "1", Shards: []shardFact{{Queue: "gone", Weight: 1}}},
		"shards/x":         "nonsense", "stream/%zz/s.c": streamFact{}, nodeKey("n1"): nodeFact{},
	})
	got := placements(st, saidOf(st), rules, "n1")
	if len(got) != 1 {
		t.Fatalf("%d streams: %v", len(got), got)
	}
	p := got[a]
	want := []shard.Shard{{Queue: "q0", Node: "n1", Weight: 5, Local: true}, {Queue: "q1", Node: "n1", Index: 1, Weight: 1, Local: true}}
	if len(p.shards) != 1 || !slices.Equal(p.shards["n1"], want) {
		t.Errorf("shards %v", p.shards)
	}
	if d := p.fact.declared(); d.Type != "topic" || !d.Durable || d.HashOn.Header != "h" {
		t.Errorf("declared %+v", d)
	}
}

// TestReady: the shards of those who serve, and quorum shards that are led; all of
// them when there is none.
func TestReady(t *testing.T) {
	p := placement{shards: map[string][]shard.Shard{"n1": {{Queue: "a"}}, "n2": {{Queue: "b"}}, "n3": {{Queue: "c", Quorum: true}}}}
	for _, c := range []struct {
		serve, led, want string // names of nodes, a queue, queues
	}{
		{serve: "n2", want: "b"},
		{serve: "n1 n2 n3", want: "abc"},
		{serve: "n2", led: "c", want: "bc"},
		{serve: "n2", led: "a", want: "b"}, // it is no quorum queue
		{led: "c", want: "c"},
		{want: "abc"},
	} {
		serves, got := map[string]bool{}, ""
		for _, node := range strings.Fields(c.serve) {
			serves[node] = true
		}
		for _, sh := range p.ready(serves, func(_, queue string) bool { return queue == c.led }) {
			got += sh.Queue
		}
		if got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// TestMembersOf: a node that is known by its fact alone counts as lost since we
// began to listen; of two members with one name the one that is alive counts.
func TestMembersOf(t *testing.T) {
	began, later := time.Unix(1000, 0), time.Unix(2000, 0)
	st := picture(t, map[string]any{
		nodeKey("n1"): nodeFact{Condition: Running, Broker: "b1"}, nodeKey("n2"): nodeFact{Condition: Stopping},
	}, membership.Member{ID: "new", Node: "n1", Addr: "g1", Since: later},
		membership.Member{ID: "old", Node: "n1", Addr: "g0", Presence: membership.Lost, Since: began})
	got := membersOf(st, began)
	if m := got["n1"]; m.presence != membership.Alive || m.addr != "g1" || m.broker != "b1" || !m.since.Equal(later) {
		t.Errorf("n1: %+v", m)
	}
	if m := got["n2"]; m.presence != membership.Lost || m.condition != Stopping || !m.since.Equal(began) {
		t.Errorf("n2: %+v", m)
	}
}

func TestKeys(t *testing.T) {
	n := shard.Name{VHost: "a/b %", Stream: "s/x\x00"}
	for _, key := range []string{streamKey(n), shardsKey(n, "rabbit@h/1")} {
		kind, back, node, ok := parseKey(key)
		if !ok || back != n || kind == "shards" && node != "rabbit@h/1" {
			t.Errorf("%s: %s %q %s %v", key, kind, back, node, ok)
		}
	}
	for _, key := range []string{"", "stream", "stream/x", "a/b/c/d/e", "stream/%z/x"} {
		if _, _, _, ok := parseKey(key); ok {
			t.Errorf("%q was read as a key", key)
		}
	}
}

// TestReached: a broker that its node knows as loopback is out of reach from elsewhere, and
// who may know is told what to do.
func TestReached(t *testing.T) {
	here := member{node: "n1", addr: "10.0.0.1:7946"}
	for name, c := range map[string]struct {
		m     member
		addr  string
		apart bool
	}{
		"advertised":               {m: member{broker: "10.0.0.2:5672", addr: "10.0.0.2:7946"}, addr: "10.0.0.2:5672"},
		"loopback elsewhere":       {m: member{broker: "127.0.0.1:5672", addr: "10.0.0.2:7946"}, apart: true},
		"localhost elsewhere":      {m: member{broker: "localhost:5672", addr: "10.0.0.2:7946"}, apart: true},
		"loopback on this machine": {m: member{broker: "127.0.0.1:5673", addr: "10.0.0.1:7947"}, addr: "127.0.0.1:5673"},
	} {
		b := c.m.reached(here, true)
		if b.Address != c.addr || (b.Apart != "") != c.apart || !b.Beside {
			t.Errorf("%s: %+v", name, b)
		}
		if c.apart && !strings.Contains(b.Apart, "broker-advertise") {
			t.Errorf("%s: it does not say what to do: %s", name, b.Apart)
		}
	}
}
