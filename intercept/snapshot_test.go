package intercept

import (
	"maps"
	"regexp"
	"strconv"
	"strings"

	"amqproxy/shard"
)

// snapshot is what tests build a shard.Snapshot from.
type snapshot struct {
	definitions map[string]shard.Definition // by the one name that they are for
	policies    []shard.Policy
	streams     map[string]options
	none        map[string]shard.Verdict
	counters    map[string]*shard.Counters
	brokers     map[string]shard.Broker
}

func (s *snapshot) init() {
	*s = snapshot{
		definitions: map[string]shard.Definition{},
		policies:    []shard.Policy{{Name: "all", Pattern: regexp.MustCompile(`^shard\.`), VHost: "*"}},
		streams:     map[string]options{},
		none:        map[string]shard.Verdict{},
		counters:    map[string]*shard.Counters{},
		brokers:     map[string]shard.Broker{},
	}
}

// add takes a policy, stream or absent line of a script.
func (s *snapshot) add(verb, name string, o options) {
	delete(s.streams, name)
	delete(s.none, name)
	switch verb {
	case "other":
		s.none[name] = shard.Ordinary
		return
	case "absent":
		s.none[name] = shard.Absent
		return
	case "stream":
		s.streams[name] = o
	}
	if s.counters[name] == nil {
		s.counters[name] = &shard.Counters{}
	}
	if _, ended := o["ended"]; ended {
		return // no policy is for it
	}
	s.definitions[name] = o.definition()
	only := regexp.MustCompile("^" + regexp.QuoteMeta(name) + "$")
	s.policies = append(s.policies, shard.Policy{Name: name, Pattern: only, VHost: "*", Priority: len(s.policies), Definition: name})
}

func (s *snapshot) make() *shard.Snapshot {
	rules := shard.NewRules(shard.Parameters{}, s.definitions, s.policies)
	tables, others, queues := map[shard.Name]*shard.Table{}, map[shard.Name]shard.Verdict{}, map[shard.Queue]shard.Standing{}
	for name, o := range s.streams {
		settings, _ := rules.Match("/", name)
		if _, ended := o["ended"]; ended {
			settings = rules.Ended()
		}
		tables[shard.Name{VHost: "/", Stream: name}] = shard.NewTable("/", name, settings, o.declared(), o.shards(name, queues), s.counters[name])
	}
	for name, what := range s.none {
		others[shard.Name{VHost: "/", Stream: name}] = what
	}
	return shard.NewSnapshot("n1", shard.NewRules(shard.Parameters{}, maps.Clone(s.definitions), s.policies), tables, others, queues, maps.Clone(s.brokers))
}

// shards are those of a stream line: the first ones are on this node, n1, and
// the others on n2; third is how many there are on n3.
func (o options) shards(name string, queues map[shard.Queue]shard.Standing) (all []shard.Shard) {
	local := o.num("local", 2)
	_, single := o["single"]
	add := func(node string, index int, standing shard.Standing) {
		queue := shard.QueueName(shard.DefaultPrefix, name, node, index)
		queues[shard.Queue{VHost: "/", Name: queue}] = standing
		if standing != shard.Closing {
			all = append(all, shard.Shard{Queue: queue, Node: node, Index: index, Weight: shard.DefaultWeight,
				Local: node == "n1", Retired: standing == shard.Retired, Quorum: o["x-queue-type"] == "quorum", Single: single})
		}
	}
	for i := range o.num("shards", 3) {
		if i < local {
			add("n1", i, shard.InUse)
		} else {
			add("n2", i-local, shard.InUse)
		}
	}
	for i := range o.num("third", 0) {
		add("n3", i, shard.InUse)
	}
	at := min(local, o.num("shards", 3))
	behind := o["behind"] + strings.Repeat("r", o.num("retired", 0)) + strings.Repeat("c", o.num("closing", 0))
	for node, more := range map[string]string{"n1": behind, "n2": o["far"]} {
		for i, letter := range more {
			if standing, there := standings[letter]; there {
				add(node, at+i, standing)
			}
		}
	}
	return all
}

// standings are the letters of what becomes of shards one by one; any other letter
// is one that is gone.
var standings = map[rune]shard.Standing{'u': shard.InUse, 'r': shard.Retired, 'c': shard.Closing}

func (o options) declared() shard.Declared {
	d := shard.Declared{Type: o["type"], Durable: o["durable"] != "false"}
	d.HashOn, _ = shard.ParseHashOn(o["asked-hash"])
	return d
}

func (o options) definition() (d shard.Definition) {
	d.HashOn, _ = shard.ParseHashOn(o["hash-on"])
	if o["queue-declare"] == "answer" {
		d.QueueDeclare = shard.DeclareAnswer
	}
	if o["queue-bind"] == "accept-own" {
		d.QueueBind = shard.BindAcceptOwn
	}
	if o["queue-purge"] == "all" {
		d.QueuePurge = shard.SetAll
	}
	if o["queue-delete"] == "all" {
		d.QueueDelete = shard.SetAll
	}
	d.Persist = o["delivery-mode"] == "persistent"
	d.OnUnavailable = map[string]shard.OnUnavailable{"wait": shard.Wait, "reject": shard.Reject}[o["on-unavailable"]]
	d.Consumers = map[string]shard.Consumers{"balanced": shard.ConsumeBalanced, "ordered": shard.ConsumeOrdered}[o["consumers"]]
	d.HashLocal = o["hash-among"] == "local"
	d.PublishAs.User = o["publish-as"]
	d.RetryNacked = o["retry-nacked"] == "true"
	d.QueueArguments = map[string]any{}
	for name, v := range o {
		if !strings.HasPrefix(name, "x-") {
			continue
		}
		d.QueueArguments[name] = v
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			d.QueueArguments[name] = n
		}
	}
	return d
}
