package main

import (
	"slices"
	"time"
)

// metric is a thing that a measurement gives, by its name in the JSON.
type metric string

const (
	perSecond        metric = "messages_per_second"
	octetsPerSecond  metric = "bytes_per_second"
	cpuPerMessage    metric = "proxy_cpu_seconds_per_million_messages"
	latency50        metric = "latency_p50_us"
	latency99        metric = "latency_p99_us"
	latency999       metric = "latency_p999_us"
	keptRate         metric = "rate_kept_beside_a_stalled_client"
	cyclesPerSecond  metric = "cycles_per_second"
	cpuPerCycle      metric = "proxy_cpu_us_per_cycle"
	rssPerConnection metric = "rss_bytes_per_connection"
	connectionsOpen  metric = "connections_open"
	rssBefore        metric = "rss_bytes_before"
	rssAfter         metric = "rss_bytes_after"
	filesLeft        metric = "descriptors_left"
)

// sample is what one measurement gives.
type sample map[metric]float64

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// rates are the figures of a number of messages in some time. Microseconds per
// message are seconds per million.
func rates(messages float64, size int, took, cpu time.Duration) sample {
	s := sample{perSecond: messages / took.Seconds(), octetsPerSecond: messages * float64(size) / took.Seconds()}
	if cpu > 0 && messages > 0 {
		s[cpuPerMessage] = micros(cpu) / messages
	}
	return s
}

// figure is a metric of a scenario on a path, in all rounds.
type figure struct {
	Scenario string    `json:"scenario"`
	Target   string    `json:"target"`
	Path     string    `json:"path"`
	Metric   metric    `json:"metric"`
	Values   []float64 `json:"values"` // by round
	Median   float64   `json:"median"`
	Min      float64   `json:"min"`
	Max      float64   `json:"max"`
}

// figures are all of a run, in the order in which they came first.
type figures struct{ all []*figure }

func (fs *figures) find(scenario, path string, m metric) *figure {
	for _, f := range fs.all {
		if f.Scenario == scenario && f.Path == path && f.Metric == m {
			return f
		}
	}
	return nil
}

func (fs *figures) add(round int, s scenario, path string, got sample) {
	for m, v := range got {
		f := fs.find(s.name(), path, m)
		if f == nil {
			f = &figure{Scenario: s.name(), Target: s.target, Path: path, Metric: m}
			fs.all = append(fs.all, f)
		}
		f.Values = append(f.Values, v)
		f.Median, f.Min, f.Max = median(f.Values), slices.Min(f.Values), slices.Max(f.Values)
	}
}

// median gives the median; the mean of the middle two of an even number.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// ratios are a's values by b's, round by round.
func ratios(a, b *figure) []float64 {
	var r []float64
	for i := range min(len(a.Values), len(b.Values)) {
		r = append(r, a.Values[i]/b.Values[i])
	}
	return r
}

// interval holds the true median with more than 95 % (a sign test), if there are
// six values or more; otherwise it is from the lowest to the highest.
func interval(values []float64) (low, high float64) {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return 0, 0
	}
	// The chance that the median is outside of v[k:n-k] is twice that of at most k
	// heads in n throws.
	k, below, term, all := 0, 1.0, 1.0, 1.0
	for range n {
		all *= 2
	}
	for {
		term *= float64(n-k) / float64(k+1)
		if below += term; 2*below/all > 0.05 {
			break
		}
		k++
	}
	return v[k], v[n-1-k]
}
