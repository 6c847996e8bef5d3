package shard

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits of what a definition may ask for. A shard costs a queue on every
// broker, and weights beyond these differ by less than the hash can show.
const (
	MaxShardsPerNode = 1000
	MaxWeight        = 1_000_000
)

// Defaults of the parameters, those of the original rabbitmq-stream plugin.
const (
	DefaultShardsPerNode = 1
	DefaultWeight        = 10000
	DefaultUsername      = "guest"
	DefaultPassword      = "guest"
	DefaultPrefix        = "stream: "
)

// Parameters are the values that a definition, or the global section, may set.
// A zero field is "not set": precedence is definition, global, default.
type Parameters struct {
	ShardsPerNode int
	Weight        uint32 // the `routing-key` parameter
	Local         Login  // local-username and local-password
}

// Definition says what the streams of a policy are like.
type Definition struct {
	Parameters
	HashOn         HashOn
	QueuePrefix    string         // "" means DefaultPrefix
	QueueArguments map[string]any // strings, bools and int64s only
	ConsumePick    ConsumePick
	QueueDeclare   QueueDeclare
	QueueBind      QueueBind
	QueuePurge     SetWise
	QueueDelete    SetWise
	Persist        bool // delivery-mode: messages become persistent, whatever they are
	RetryNacked    bool // what the broker nacks is sent again, and may be there twice
	OnUnavailable  OnUnavailable
	HashLocal      bool  // hash-among: messages go to the local node's shards only
	PublishAs      Login // for links to other brokers; the client's own if it has no user
	Consumers      Consumers
}

// Consumers is how the consumers of a stream share its shards.
type Consumers uint8

const (
	ConsumeLocal    Consumers = iota // each reads one shard of its own node
	ConsumeBalanced                  // all of them read all shards
	ConsumeOrdered                   // the same, and each shard has one consumer at a time
)

// String gives the form that the configuration has.
func (c Consumers) String() string {
	return [...]string{"local", "balanced", "ordered"}[c]
}

// SingleActive is the argument of a queue that serves one of its consumers at a time.
const SingleActive = "x-single-active-consumer"

// ConsumePick is how basic.consume chooses among the local shards.
type ConsumePick uint8

const (
	PickFewest ConsumePick = iota // random among those with the fewest consumers
	PickRandom                    // purely at random, as the original plugin did
)

// QueueDeclare is what an active queue.declare on a virtual queue gets.
type QueueDeclare uint8

const (
	DeclareRefuse QueueDeclare = iota
	DeclareAnswer              // as if the virtual queue were one queue
)

// QueueBind is what queue.bind and queue.unbind on a virtual queue get.
type QueueBind uint8

const (
	BindRefuse    QueueBind = iota
	BindAcceptOwn           // binding V to exchange V is answered and does nothing
)

// SetWise is what a method gets that would change every shard of a stream.
type SetWise uint8

const (
	SetRefuse SetWise = iota
	SetAll            // done on every shard
)

// OnUnavailable is what becomes of a publish whose shard's broker can't be had.
type OnUnavailable uint8

const (
	Spill  OnUnavailable = iota // the next shard takes it
	Wait                        // it waits
	Reject                      // it is nacked
)

// HashSource is the part of a message that a stream is partitioned by.
type HashSource uint8

const (
	HashUnset HashSource = iota // the definition leaves it to the first declare
	HashRoutingKey
	HashHeader
	HashMessageID
	HashCorrelationID
	HashTimestamp
)

// HashOn names what a stream hashes on; Header is set with HashHeader only.
type HashOn struct {
	Source HashSource
	Header string
}

// ParseHashOn reads the configuration's form: `routing-key`, `header:NAME`, or
// `property:` with message_id, correlation_id or timestamp.
func ParseHashOn(s string) (HashOn, error) {
	kind, name, _ := strings.Cut(s, ":")
	switch {
	case s == "routing-key":
		return HashOn{Source: HashRoutingKey}, nil
	case kind == "header" && name != "" && len(name) <= 255:
		return HashOn{HashHeader, name}, nil
	case kind == "property":
		for src, n := range hashProperties {
			if n == name {
				return HashOn{Source: src}, nil
			}
		}
	}
	return HashOn{}, fmt.Errorf("hash-on %q is none of routing-key, header:NAME, property:message_id, property:correlation_id, property:timestamp", s)
}

var hashProperties = map[HashSource]string{
	HashMessageID:     "message_id",
	HashCorrelationID: "correlation_id",
	HashTimestamp:     "timestamp",
}

// String gives the form that ParseHashOn reads; "" when unset.
func (h HashOn) String() string {
	switch h.Source {
	case HashUnset:
		return ""
	case HashRoutingKey:
		return "routing-key"
	case HashHeader:
		return "header:" + h.Header
	}
	return "property:" + hashProperties[h.Source]
}

// ParseWeight reads the `routing-key` parameter: a whole number in a string, as
// the original plugin wrote it, between 1 and MaxWeight.
func ParseWeight(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < 1 || n > MaxWeight {
		return 0, fmt.Errorf("routing-key %q is the weight of a shard: a whole number from 1 to %d, in quotes", s, MaxWeight)
	}
	return uint32(n), nil
}

// Policy makes streams of the exchanges whose name matches Pattern.
type Policy struct {
	Name       string
	Pattern    *regexp.Regexp
	VHost      string // "*" means every vhost
	Priority   int
	Definition string // a name in Rules' definitions; an unknown one means all defaults
}

// Settings are what holds for one stream: its definition with the global
// parameters and the defaults filled in. Immutable.
type Settings struct {
	Definition
	Policy string // the policy's name, for status and logs
	// Ended: no policy makes it a stream any more. Its exchange is an ordinary one,
	// and its queue serves what its retired shards still hold.
	Ended bool
}

// Rules decide which names are streams and with what settings. Immutable.
type Rules struct {
	global      Parameters
	definitions map[string]Definition
	policies    []Policy // highest priority first, then as configured
}

// NewRules orders the policies; of equal priorities the first configured wins.
func NewRules(global Parameters, definitions map[string]Definition, policies []Policy) *Rules {
	sorted := slices.Clone(policies)
	slices.SortStableFunc(sorted, func(a, b Policy) int { return cmp.Compare(b.Priority, a.Priority) })
	return &Rules{global: global, definitions: definitions, policies: sorted}
}

// Match finds the settings of exchange name in vhost; false when no policy
// makes it a stream.
func (r *Rules) Match(vhost, name string) (*Settings, bool) {
	if name == "" || strings.HasPrefix(name, "amq.") {
		return nil, false // the default exchange and the broker's own are never streams
	}
	for i := range r.policies {
		p := &r.policies[i]
		if (p.VHost == "*" || p.VHost == vhost) && p.Pattern.MatchString(name) {
			return r.settings(p), true
		}
	}
	return nil, false
}

// Ended are the settings of a stream that no policy makes one any more: what its
// definition said is not known.
func (r *Rules) Ended() *Settings {
	s := r.settings(&Policy{})
	s.Ended = true
	return s
}

func (r *Rules) settings(p *Policy) *Settings {
	d := r.definitions[p.Definition]
	d.ShardsPerNode = cmp.Or(d.ShardsPerNode, r.global.ShardsPerNode, DefaultShardsPerNode)
	d.Weight = cmp.Or(d.Weight, r.global.Weight, DefaultWeight)
	d.QueuePrefix = cmp.Or(d.QueuePrefix, DefaultPrefix)
	// A password belongs to the name it was written beside.
	if d.Local.User == "" {
		d.Local = r.global.Local
	}
	if d.Local.User == "" {
		d.Local = Login{DefaultUsername, DefaultPassword}
	}
	if _, set := d.QueueArguments[SingleActive]; d.Consumers == ConsumeOrdered && !set {
		d.QueueArguments = maps.Clone(d.QueueArguments)
		if d.QueueArguments == nil {
			d.QueueArguments = map[string]any{}
		}
		d.QueueArguments[SingleActive] = true
	}
	return &Settings{Definition: d, Policy: p.Name}
}
