package main

import "fmt"

// goal is what amqproxy is to reach in one scenario.
type goal struct {
	text     string
	scenario string
	path     string
	metric   metric
	how      how
	limit    float64
	atLeast  bool // limit is the least; otherwise it is the most
	noise    bool // what the noise of the run can't tell from limit reaches it
}

// how a goal's measure comes of the figures.
type how int

const (
	asItIs      how = iota
	byHAProxy       // by HAProxy's, in the same round
	byStream        // by that of amqproxy's stream on one node, in the same round
	addedBy         // what is more than direct, by the same of HAProxy
	perCPU          // a million by the metric: how many fit one core
	byRSSBefore     // by the memory before
)

// verdict is how a goal was met.
type verdict struct {
	Goal     string  `json:"goal"`
	Want     string  `json:"want"`
	Measured float64 `json:"measured"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Note     string  `json:"note,omitempty"`
	Met      bool    `json:"met"`
}

func goals() []goal {
	var all []goal
	add := func(g goal) { all = append(all, g) }
	for _, size := range []string{"100 B", "200 B"} {
		add(goal{text: "CPU per publish, passed through, " + size, scenario: "sink: publish " + size, path: amqproxy, metric: cpuPerMessage, how: byHAProxy, limit: 1.5})
		add(goal{text: "CPU per publish to a stream, " + size, scenario: "sink: publish " + size, path: stream, metric: cpuPerMessage, how: byHAProxy, limit: 3})
	}
	for _, what := range []string{"publish 100 B", "publish 200 B", "publish with confirms 100 B", "publish with confirms 200 B"} {
		add(goal{text: "CPU to a stream over links: " + what, scenario: "sink: " + what, path: links, metric: cpuPerMessage, how: byStream, limit: 2})
	}
	add(goal{text: "CPU per delivery, passed through, 200 B", scenario: "sink: deliver 200 B", path: amqproxy, metric: cpuPerMessage, how: byHAProxy, limit: 1.5})
	add(goal{text: "CPU per delivery from a stream, 200 B", scenario: "sink: deliver 200 B", path: stream, metric: cpuPerMessage, how: byHAProxy, limit: 1.5})
	for _, what := range []string{"deliver 200 B", "deliver with acks 200 B"} {
		add(goal{text: "CPU to a group that reads all nodes: " + what, scenario: "sink: " + what, path: links, metric: cpuPerMessage, how: byHAProxy, limit: 2})
	}
	add(goal{text: "one core's publishes to a stream, 100 B", scenario: "sink: publish 100 B", path: stream, metric: cpuPerMessage, how: perCPU, limit: 4e6, atLeast: true})
	add(goal{text: "the same with confirms", scenario: "sink: publish with confirms 100 B", path: stream, metric: cpuPerMessage, how: perCPU, limit: 2.5e6, atLeast: true})
	for _, path := range []string{amqproxy, stream} {
		for _, what := range []string{"publish", "deliver"} {
			add(goal{text: "octets a second, 64 KiB, " + what + ", " + path, scenario: "sink: " + what + " 64 KiB", path: path, metric: octetsPerSecond, how: byHAProxy, limit: 0.9, atLeast: true})
		}
	}
	for _, what := range []string{"publish 200 B", "publish with confirms 200 B", "publish with confirms and consume 16 B", "publish with confirms and consume 200 B",
		"publish with confirms and consume 1 KiB", "publish with confirms and consume 64 KiB"} {
		add(goal{text: "RabbitMQ: " + what, scenario: "RabbitMQ: " + what, path: amqproxy, metric: perSecond, how: byHAProxy, limit: 1, atLeast: true, noise: true})
	}
	for _, target := range []string{sink, rabbit} {
		for _, what := range []string{"latency, one by one 200 B", "latency at 5000/s 200 B"} {
			g := goal{scenario: target + ": " + what, path: amqproxy, how: addedBy, limit: 1.2}
			g.text, g.metric = target+": added "+what+", p50", latency50
			add(g)
			g.text, g.metric = target+": added "+what+", p99", latency99
			add(g)
		}
	}
	add(goal{text: "CPU per connect, open, publish, close", scenario: "sink: connect, open, publish, close 16 B", path: amqproxy, metric: cpuPerCycle, how: byHAProxy, limit: 2})
	add(goal{text: "rate kept beside one that stops reading", scenario: "sink: deliver beside one that stops reading 200 B", path: amqproxy, metric: keptRate, limit: 0.95, atLeast: true})
	add(goal{text: "memory after many connections, by before", scenario: "sink: memory after many connections 16 B", path: amqproxy, metric: rssAfter, how: byRSSBefore, limit: 1.1})
	add(goal{text: "descriptors left by many connections", scenario: "sink: memory after many connections 16 B", path: amqproxy, metric: filesLeft, limit: 0})
	return all
}

// idleGoals are the same for idle connections, whose number is known now only.
func idleGoals(chosen []scenario) []goal {
	var all []goal
	for _, s := range chosen {
		if s.connections > 0 {
			all = append(all, goal{text: fmt.Sprintf("octets of memory for each of %d idle connections", s.connections),
				scenario: s.name(), path: amqproxy, metric: rssPerConnection, limit: 12 << 10})
		}
	}
	return all
}

// judge says how the goals were met that were measured.
func (fs *figures) judge(goals []goal) []verdict {
	var all []verdict
	for _, g := range goals {
		f := fs.find(g.scenario, g.path, g.metric)
		if f == nil {
			continue
		}
		if v, can := fs.verdict(g, f); can {
			all = append(all, v)
		}
	}
	return all
}

func (fs *figures) verdict(g goal, f *figure) (v verdict, can bool) {
	v = verdict{Goal: g.text, Want: fmt.Sprintf("≤ %s", short(g.limit))}
	if g.atLeast {
		v.Want = fmt.Sprintf("≥ %s", short(g.limit))
	}
	values := f.Values
	other := func(path string, m metric) (*figure, bool) {
		o := fs.find(g.scenario, path, m)
		return o, o != nil
	}
	switch g.how {
	case byHAProxy:
		o, there := other(haproxy, g.metric)
		if !there {
			return v, false
		}
		values = ratios(f, o)
		v.Want += " × HAProxy"
	case byStream:
		o, there := other(stream, g.metric)
		if !there {
			return v, false
		}
		values = ratios(f, o)
		v.Want += " × " + stream
	case byRSSBefore:
		o, there := other(g.path, rssBefore)
		if !there {
			return v, false
		}
		values = ratios(f, o)
	case perCPU:
		values = nil
		for _, x := range f.Values {
			values = append(values, 1e6/x)
		}
	case addedBy:
		h, there := other(haproxy, g.metric)
		d, too := other(direct, g.metric)
		if !there || !too {
			return v, false
		}
		ours, theirs := f.Median-d.Median, h.Median-d.Median
		v.Want += " × HAProxy"
		v.Note = fmt.Sprintf("%+.1f µs, HAProxy %+.1f µs, direct %.1f µs", ours, theirs, d.Median)
		values = []float64{ours / theirs}
		if theirs <= 0 { // lost in the noise: then ours has to be so too
			v.Note += ": HAProxy's is lost in the noise"
			v.Met = ours <= 0
			return v, true
		}
	}
	v.Measured = median(values)
	v.Low, v.High = interval(values)
	v.Met = g.met(v)
	return v, true
}

func (g goal) met(v verdict) bool {
	switch {
	case g.atLeast && g.noise:
		return v.High >= g.limit
	case g.atLeast:
		return v.Measured >= g.limit
	}
	return v.Measured <= g.limit
}
