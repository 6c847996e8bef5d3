package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the JSON.
type report struct {
	Began    time.Time         `json:"began"`
	Took     string            `json:"took"`
	CPUs     int               `json:"cpus"`
	CPU      string            `json:"cpu"`
	Kernel   string            `json:"kernel"`
	Versions map[string]string `json:"versions"`
	Threads  string            `json:"threads_of_each_proxy"`
	Conns    int               `json:"connections"`
	Duration string            `json:"duration_of_a_measurement"`
	Short    bool              `json:"short"`
	Figures  []*figure         `json:"figures"`
	Goals    []verdict         `json:"goals"`
}

func (b *bench) report(began time.Time, threads int, verdicts []verdict) report {
	r := report{
		Began: began, Took: time.Since(began).Round(time.Second).String(), CPUs: runtime.NumCPU(), Versions: b.setup.versions,
		Threads: "as each does by itself", Conns: b.connections, Duration: b.duration.String(), Short: b.short,
		Figures: b.figures.all, Goals: verdicts, CPU: fileLine("/proc/cpuinfo", "model name"), Kernel: fileLine("/proc/sys/kernel/osrelease", ""),
	}
	if threads > 0 {
		r.Threads = fmt.Sprint(threads)
	}
	return r
}

// fileLine is the first line of a file that begins so, without its beginning.
func fileLine(file, begin string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, begin); ok {
			return strings.Trim(rest, " \t\n:")
		}
	}
	return "unknown"
}

func (r report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// columns are the metrics of the table, in the order in which they stand.
var columns = []struct {
	metric metric
	title  string
	by     float64 // what is shown is so many of them
}{
	{perSecond, "messages/s", 1},
	{octetsPerSecond, "MB/s", 1e6},
	{cpuPerMessage, "CPU µs/message", 1},
	{keptRate, "part of the rate kept", 1},
	{latency50, "p50 µs", 1},
	{latency99, "p99 µs", 1},
	{latency999, "p99.9 µs", 1},
	{cyclesPerSecond, "cycles/s", 1},
	{cpuPerCycle, "CPU µs/cycle", 1},
	{connectionsOpen, "connections", 1},
	{rssPerConnection, "KiB/connection", 1024},
	{rssBefore, "MiB before", 1 << 20},
	{rssAfter, "MiB after", 1 << 20},
	{filesLeft, "descriptors left", 1},
}

// table prints all figures.
func (r report) table(to io.Writer, chosen []scenario) {
	fmt.Fprintf(to, "\n%d CPUs (%s), kernel %s; threads of each proxy: %s; %d connections; %s each\n",
		r.CPUs, r.CPU, r.Kernel, r.Threads, r.Conns, r.Duration)
	for _, what := range []string{"amqproxy", "haproxy"} {
		if v := r.Versions[what]; v != "" {
			fmt.Fprintln(to, v)
		}
	}
	fs := figures{r.Figures}
	for _, s := range chosen {
		fmt.Fprintf(to, "\n%s\n", s.name())
		w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
		fs.rows(w, s)
		w.Flush()
	}
}

// rows prints a line for each path: medians, their range over the rounds, and
// what they are by HAProxy's.
func (fs *figures) rows(w io.Writer, s scenario) {
	for i, path := range append([]string{""}, s.paths...) {
		fmt.Fprintf(w, "  %s", path)
		for _, c := range columns {
			if !slices.ContainsFunc(fs.all, func(f *figure) bool { return f.Scenario == s.name() && f.Metric == c.metric }) {
				continue
			}
			switch f := fs.find(s.name(), path, c.metric); {
			case i == 0:
				fmt.Fprintf(w, "\t%s\t\t", c.title)
			case f == nil:
				fmt.Fprintf(w, "\t\t\t")
			default:
				fmt.Fprintf(w, "\t%s\t(%s to %s)\t%s", short(f.Median/c.by), short(f.Min/c.by), short(f.Max/c.by), fs.byHAProxy(f))
			}
		}
		fmt.Fprintln(w)
	}
}

func (fs *figures) byHAProxy(f *figure) string {
	h := fs.find(f.Scenario, haproxy, f.Metric)
	if h == nil || f.Path == haproxy || h.Median == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f×", median(ratios(f, h)))
}

// verdicts prints the goals.
func (r report) verdicts(to io.Writer) {
	if len(r.Goals) == 0 {
		return
	}
	fmt.Fprintln(to, "\nGoals (the measured one is the median over the rounds, its range that of the median with 95 %)")
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, v := range r.Goals {
		word := "MISS"
		if v.Met {
			word = "pass"
		}
		spread := ""
		if v.Low != v.High {
			spread = fmt.Sprintf("(%s to %s)", short(v.Low), short(v.High))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s %s\n", word, v.Goal, v.Want, short(v.Measured), spread, v.Note)
	}
	w.Flush()
}

// short is a number in a few digits.
func short(x float64) string {
	switch a := max(x, -x); {
	case a >= 1e6:
		return fmt.Sprintf("%.2fM", x/1e6)
	case a >= 1000:
		return fmt.Sprintf("%.0f", x)
	case a >= 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.3g", x)
}
