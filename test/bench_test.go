package test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"amqproxy/test/daemon"
)

// benchFigures are what each kind of scenario has to give, by how its name
// begins behind the target.
var benchFigures = map[string][]string{
	"publish":         {"messages_per_second", "bytes_per_second", "proxy_cpu_seconds_per_million_messages"},
	"deliver ":        {"messages_per_second", "bytes_per_second", "proxy_cpu_seconds_per_million_messages"},
	"deliver beside ": {"rate_kept_beside_a_stalled_client"},
	"latency":         {"latency_p50_us", "latency_p99_us", "latency_p999_us"},
	"connect":         {"cycles_per_second", "proxy_cpu_us_per_cycle"},
	"idle":            {"rss_bytes_per_connection"},
	"memory":          {"rss_bytes_before", "rss_bytes_after", "descriptors_left"},
}

// TestBench: the bench works, and gives every figure of every scenario.
func TestBench(t *testing.T) {
	t.Parallel()
	proxy, err := daemon.Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bench, file := filepath.Join(dir, "bench"), filepath.Join(dir, "bench.json")
	if out, err := exec.Command("go", "build", "-o", bench, "amqproxy/test/bench").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), bench, "-short", "-proxy", proxy, "-json", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list, err := exec.Command(bench, "-short", "-list").Output()
	if err != nil {
		t.Fatal(err)
	}
	has := benchResults(t, file)
	for _, scenario := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		for _, metric := range wantedFigures(t, scenario) {
			if !has[scenario+"\namqproxy\n"+metric] {
				t.Errorf("%s: no %s of amqproxy", scenario, metric)
			}
		}
	}
	for _, scenario := range []string{"sink: publish 100 B", "sink: publish 200 B", "sink: publish with confirms 100 B", "sink: publish with confirms 200 B"} {
		for _, metric := range benchFigures["publish"] {
			if !has[scenario+"\namqproxy, links\n"+metric] {
				t.Errorf("%s: no %s over links", scenario, metric)
			}
		}
	}
	for _, plot := range []string{"bench-cpu.svg", "bench-latency.svg"} {
		if text, err := os.ReadFile(filepath.Join(dir, plot)); err != nil || !strings.Contains(string(text), "</svg>") {
			t.Errorf("%s: %v", plot, err)
		}
	}
}

// wantedFigures are those of the longest beginning that fits.
func wantedFigures(t *testing.T, scenario string) []string {
	t.Helper()
	_, what, _ := strings.Cut(scenario, ": ")
	begins := slices.SortedFunc(maps.Keys(benchFigures), func(a, b string) int { return len(b) - len(a) })
	for _, begin := range begins {
		if strings.HasPrefix(what, begin) {
			return benchFigures[begin]
		}
	}
	t.Errorf("nothing is known of scenario %q", scenario)
	return nil
}

// benchResults reads which figures there are, and that each has a value that can
// be one.
func benchResults(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Figures []struct {
			Scenario, Path, Metric string
			Values                 []float64
			Median                 float64
		}
		Goals []struct{ Goal string }
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Goals) < 30 {
		t.Errorf("only %d goals were judged", len(report.Goals))
	}
	has := map[string]bool{}
	for _, f := range report.Figures {
		has[f.Scenario+"\n"+f.Path+"\n"+f.Metric] = true
		if len(f.Values) == 0 || f.Median <= 0 && !strings.Contains(f.Metric, "descriptors") && !strings.Contains(f.Metric, "per_connection") {
			t.Errorf("%s, %s, %s: %v", f.Scenario, f.Path, f.Metric, f.Values)
		}
	}
	return has
}
