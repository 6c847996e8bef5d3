package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"amqproxy/test/daemon"
)

// TestFaults: nothing that was acked is lost when a broker or a proxy dies, and when
// somebody deletes a shard.
func TestFaults(t *testing.T) {
	faults := buildFaults(t)
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		faults(t, []string{"-only", "SIGKILL$|deleted"}, "broker SIGKILL", "proxy SIGKILL", "shard deleted by a user")
	})
	t.Run("apart", func(t *testing.T) { // the others are below
		t.Parallel()
		faults(t, []string{"-apart", "-only", "^broker SIGKILL$"}, "broker SIGKILL")
	})
}

// TestFaultsGroups: the same with brokers apart and an ordered group, and a broker that
// stops and consumers that are killed, too; and nothing comes out of order.
func TestFaultsGroups(t *testing.T) {
	t.Parallel()
	faults := buildFaults(t)
	faults(t, []string{"-groups", "-apart"}, "broker SIGKILL", "broker shutdown", "proxy SIGKILL", "consumer SIGKILL", "shard deleted by a user")
}

// buildFaults gives a function that runs the short form with some flags, and wants some
// faults to be what counts.
func buildFaults(t *testing.T) func(t *testing.T, flags []string, counts ...string) {
	t.Helper()
	proxy, err := daemon.Binary()
	if err != nil {
		t.Fatal(err)
	}
	faults := filepath.Join(t.TempDir(), "faults")
	if out, err := exec.Command("go", "build", "-o", faults, "./faults").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return func(t *testing.T, flags []string, counts ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "faults.json")
		cmd := exec.Command(faults, append(flags, "-short", "-seed", "1", "-rate", "300", "-proxy", proxy, "-json", file)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		checkFaults(t, file, counts)
	}
}

// checkFaults looks at the figures themselves: a run in which nothing happened loses
// nothing either.
func checkFaults(t *testing.T, file string, want []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Runs []struct {
			Fault, Path, Error              string
			Attempted, Acked, Lost, Strange int
			Counts                          bool
			Ordered                         bool
			Reordered                       int `json:"reordered_keys"`
			Unconfirmed                     int `json:"unconfirmed_at_victim"`
		}
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, r := range report.Runs {
		if r.Path != "amqproxy" || r.Error != "" || r.Lost > 0 || r.Strange > 0 || r.Acked < 900 || r.Attempted < r.Acked || r.Ordered && r.Reordered > 0 {
			t.Errorf("%+v", r)
		}
		if r.Counts {
			counted = append(counted, r.Fault)
		}
	}
	if !slices.Equal(counted, want) {
		t.Errorf("these count: %q", counted)
	}
}
