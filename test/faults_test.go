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

// TestFaults: nothing that was acked is lost when a broker dies or stops, when a
// proxy dies, and when somebody deletes a shard.
func TestFaults(t *testing.T) {
	proxy, err := daemon.Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	faults, file := filepath.Join(dir, "faults"), filepath.Join(dir, "faults.json")
	if out, err := exec.Command("go", "build", "-o", faults, "./faults").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, flags := range map[string][]string{"cluster": nil, "apart": {"-apart"}} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(faults, append(flags, "-short", "-seed", "1", "-proxy", proxy, "-json", file)...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
			checkFaults(t, file)
		})
	}
}

// checkFaults looks at the figures themselves: a run in which nothing happened loses
// nothing either.
func checkFaults(t *testing.T, file string) {
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
			Unconfirmed                     int `json:"unconfirmed_at_victim"`
		}
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, r := range report.Runs {
		if r.Path != "amqproxy" || r.Error != "" || r.Lost > 0 || r.Strange > 0 || r.Acked < 5000 || r.Attempted < r.Acked {
			t.Errorf("%+v", r)
		}
		if r.Counts {
			counted = append(counted, r.Fault)
		}
	}
	want := []string{"broker SIGKILL", "broker shutdown", "proxy SIGKILL", "shard deleted by a user"}
	if !slices.Equal(counted, want) {
		t.Errorf("these count: %q", counted)
	}
}
