package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// The targets: what is behind the proxy.
const (
	sink   = "sink"
	rabbit = "RabbitMQ"
)

// The paths: what stands between a client and a target. On the path of a stream
// amqproxy does its work, on the one before it lets everything through. On the last the
// stream is on several nodes: most of what is published to it goes over publish links, and
// its consumers are groups, each of which reads all shards.
const (
	direct   = "direct"
	haproxy  = "haproxy"
	amqproxy = "amqproxy"
	stream   = "amqproxy, stream"
	links    = "amqproxy, links"
)

var (
	allPaths    = []string{direct, haproxy, amqproxy, stream}
	pathsAndFar = append(slices.Clip(allPaths), links)
	bothProxies = []string{haproxy, amqproxy}
)

// scenario is one thing to be measured, on each of its paths.
type scenario struct {
	what, target string
	size         int // of a message's body
	connections  int // for those that say so themselves
	confirms     bool
	acks         bool
	paths        []string
	rounds       int // at least; or, below 0, at most
	measure      func(*bench, scenario, path) (sample, error)
}

func (s scenario) name() string {
	name := s.target + ": " + s.what
	switch {
	case s.connections > 0:
		return fmt.Sprintf("%s %d", name, s.connections)
	case s.size >= 1<<10:
		return fmt.Sprintf("%s %d KiB", name, s.size>>10)
	case s.size > 0:
		return fmt.Sprintf("%s %d B", name, s.size)
	}
	return name
}

// rabbitRounds are as many as it takes to tell two proxies apart on a broker.
const rabbitRounds = 9

// scenarios are all that there are.
func scenarios() []scenario {
	sizes := []int{16, 200, 1 << 10, 64 << 10}
	var all []scenario
	add := func(s scenario) { all = append(all, s) }
	for _, size := range []int{16, 100, 200, 1 << 10, 64 << 10} {
		paths := allPaths
		if size == 100 || size == 200 { // there what a message costs is the proxy's work, not the copying
			paths = pathsAndFar
		}
		add(scenario{what: "publish", target: sink, size: size, paths: paths, measure: measurePublish})
	}
	for _, size := range []int{100, 200} {
		add(scenario{what: "publish with confirms", target: sink, size: size, confirms: true, paths: pathsAndFar, measure: measurePublish})
	}
	for _, size := range sizes {
		paths := allPaths
		if size == 200 {
			paths = pathsAndFar
		}
		add(scenario{what: "deliver", target: sink, size: size, paths: paths, measure: measureDeliver})
	}
	add(scenario{what: "deliver with acks", target: sink, size: 200, paths: pathsAndFar, acks: true, measure: measureDeliver})
	add(scenario{what: "deliver beside one that stops reading", target: sink, size: 200, paths: []string{haproxy, amqproxy, stream}, measure: measureStalled})
	add(scenario{what: "latency, one by one", target: sink, size: 200, paths: allPaths, measure: measureOneByOne})
	add(scenario{what: "latency at 5000/s", target: sink, size: 200, paths: allPaths, measure: measurePaced})
	add(scenario{what: "connect, open, publish, close", target: sink, size: 16, paths: allPaths, measure: measureCycles})
	for _, conns := range []int{1000, 10_000} {
		add(scenario{what: "idle connections", target: sink, connections: conns, paths: bothProxies, rounds: -3, measure: measureIdle})
	}
	add(scenario{what: "memory after many connections", target: sink, size: 16, paths: []string{amqproxy}, rounds: -1, measure: measureLeak})

	onRabbit := func(s scenario) {
		s.target, s.paths, s.rounds = rabbit, allPaths, rabbitRounds
		add(s)
	}
	onRabbit(scenario{what: "publish", size: 200, measure: measurePublish})
	onRabbit(scenario{what: "publish with confirms", size: 200, confirms: true, measure: measurePublish})
	for _, size := range sizes {
		onRabbit(scenario{what: "publish with confirms and consume", size: size, measure: measureThrough})
	}
	onRabbit(scenario{what: "latency, one by one", size: 200, measure: measureOneByOne})
	onRabbit(scenario{what: "latency at 5000/s", size: 200, measure: measurePaced})
	return all
}

// bench is one run.
type bench struct {
	rounds      int
	connections int           // that publish or consume at once
	duration    time.Duration // of one measurement
	settle      time.Duration // before memory is looked at
	leakCycles  int64
	short       bool
	only, paths *regexp.Regexp
	setup       *setup
	figures     figures
	say         func(format string, args ...any)
}

// chosen are the scenarios of this run, as it wants them.
func (b *bench) chosen() []scenario {
	var chosen []scenario
	for _, s := range scenarios() {
		if s.connections > 0 {
			if b.short {
				s.connections /= 10
			}
			s.connections = idleConnections(s.connections)
		}
		s.paths = slices.DeleteFunc(slices.Clone(s.paths), func(path string) bool { return !b.paths.MatchString(path) })
		if b.only.MatchString(s.name()) && len(s.paths) > 0 {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// in is in how many rounds a scenario is measured.
func (s scenario) in(b *bench) int {
	switch {
	case b.short:
		return b.rounds
	case s.rounds < 0:
		return min(b.rounds, -s.rounds)
	}
	return max(b.rounds, s.rounds)
}

// run measures every scenario in rounds. In each the paths come one after the
// other, and each round begins with another.
func (b *bench) run(ctx context.Context, chosen []scenario) error {
	last := 0
	for _, s := range chosen {
		last = max(last, s.in(b))
	}
	for round := range last {
		began := time.Now()
		for _, s := range chosen {
			if round >= s.in(b) {
				continue
			}
			if err := b.round(round, s); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		b.say("round %d of %d: %s", round+1, last, time.Since(began).Round(time.Second))
	}
	return nil
}

func (b *bench) round(round int, s scenario) error {
	for i := range s.paths {
		name := s.paths[(round+i)%len(s.paths)]
		p, there := b.setup.path(s.target, name)
		if !there {
			continue
		}
		if err := b.setup.clean(s.target); err != nil {
			return err
		}
		got, err := s.measure(b, s, p)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", s.name(), name, err)
		}
		b.figures.add(round, s, name, got)
	}
	return nil
}
