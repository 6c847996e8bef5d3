package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"amqproxy/test/broker"
)

// conformanceSkip leaves out of amqp091-go's own tests what says nothing of a
// proxy:
//   - TestConnectionRecovery… close connections with the management plugin, which
//     they want on port 15672 and nowhere else, and fail without it;
//   - TestConnection_Close_WhenMemoryAlarmIsActive runs rabbitmqctl with the
//     system's own settings, and skips itself without it;
//   - TestChannelCounterShouldNotPanicIssue136 opens and closes 80,000 channels one
//     after the other, which takes a minute on the broker alone;
//     TestIntegrationHighChannelChurnInTightLoop does the same 1,000 times;
//   - TestNotifyClosesAllChansAfterConnectionClose is a test of the library against
//     a scripted peer and no broker, and fails now and then on a busy machine;
//   - examples want a broker on port 5672.
const conformanceSkip = "^(TestNotifyClosesAllChansAfterConnectionClose|TestConnectionRecovery|TestConnection_Close_WhenMemoryAlarmIsActive|TestChannelCounterShouldNotPanicIssue136|Example)"

// conformanceBound is how long one run of the suite may take. It takes 25 s, most
// of them spent in timeouts of the suite's own.
const conformanceBound = 4 * time.Minute

// TestConformance runs amqp091-go's own tests, which come with the module, on a
// broker and through a proxy in front of another one, side by side: what passes there
// passes here. On a busy machine one may fail on the broker itself. (They take vhost / whatever the URL says, hence two brokers.)
func TestConformance(t *testing.T) {
	t.Parallel()
	brokers := conformanceBrokers(t)
	suite := conformanceBuild(t)
	p := sessionProxy(t, brokers[1], `policies: [{name: others, pattern: '^stream\.', vhost: "*"}]`)
	before := sessionMetrics(t, p)

	var onBroker, onProxy conformanceRun
	var both sync.WaitGroup
	both.Go(func() {
		onBroker = conformanceOn(t.Context(), suite, brokers[0].URL("/"), "-test.skip", conformanceSkip)
	})
	both.Go(func() {
		onProxy = conformanceOn(t.Context(), suite, p.URL("guest", "guest", "/"), "-test.skip", conformanceSkip)
	})
	both.Wait()
	for where, run := range map[string]conformanceRun{"on the broker": onBroker, "through the proxy": onProxy} {
		if len(run.passed)+len(run.failed) == 0 || run.err != nil && (where == "through the proxy" || len(run.failed) == 0) {
			t.Errorf("%s: failed %v (%v)\n%s", where, run.failed, run.err, run.output)
		}
		if len(run.passed) < 150 {
			t.Errorf("%s %d tests passed, want at least 150", where, len(run.passed))
		}
		t.Logf("%s %d tests passed in %s:\n%s", where, len(run.passed), run.took.Round(time.Second), strings.Join(run.passed, "\n"))
	}
	for _, name := range onBroker.passed {
		if !slices.Contains(onProxy.passed, name) {
			t.Errorf("%s passes on the broker and not through the proxy", name)
		}
	}
	if len(onBroker.failed) > 3 {
		t.Errorf("on the broker itself %v failed", onBroker.failed)
	}
	const opened = "amqproxy_connections_opened_total"
	if n := sessionMetrics(t, p)[opened] - before[opened]; n < 60 {
		t.Errorf("the suite opened %v connections to the proxy, want at least 60: it ran elsewhere", n)
	}
}

// conformanceBrokers starts a broker for each run.
func conformanceBrokers(t *testing.T) (brokers [2]*broker.Node) {
	t.Helper()
	var errs [2]error
	var both sync.WaitGroup
	for i := range brokers {
		both.Go(func() { brokers[i], errs[i] = broker.Start(t.Context(), broker.Options{}) })
	}
	both.Wait()
	t.Cleanup(func() {
		for _, n := range brokers {
			if n != nil {
				n.Close()
			}
		}
	})
	sessionMust(t, errors.Join(errs[:]...))
	return brokers
}

// conformanceBuild copies the module out of the cache, which is read-only, and
// compiles its tests once for both runs.
func conformanceBuild(t *testing.T) (binary string) {
	t.Helper()
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/rabbitmq/amqp091-go").Output()
	sessionMust(t, err)
	dir := filepath.Join(t.TempDir(), "amqp091-go")
	sessionMust(t, os.CopyFS(dir, os.DirFS(strings.TrimSpace(string(module)))))
	sessionMust(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	}))
	binary = filepath.Join(dir, "suite.test")
	build := exec.Command("go", "test", "-c", "-trimpath", "-tags", "integration", "-o", binary, ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// conformanceRun is the outcome of one run of the suite.
type conformanceRun struct {
	passed, failed []string // sorted
	took           time.Duration
	output         string // of what failed
	err            error
}

// conformanceOn runs the tests that the flags leave.
func conformanceOn(ctx context.Context, binary, url string, flags ...string) (run conformanceRun) {
	ctx, cancel := context.WithTimeout(ctx, conformanceBound)
	defer cancel()
	args := append([]string{"tool", "test2json", "-t", binary, "-test.v=test2json"}, flags...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Dir(binary)
	cmd.Env = append(os.Environ(), "AMQP_URL="+url)
	cmd.WaitDelay = time.Second
	began := time.Now()
	out, err := cmd.Output()
	run.took, run.err = time.Since(began), err
	said := map[string]*strings.Builder{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			run.err = fmt.Errorf("%q is no JSON: %w", lines.Text(), err)
			return run
		}
		if said[event.Test] == nil {
			said[event.Test] = &strings.Builder{}
		}
		said[event.Test].WriteString(event.Output)
		switch {
		case event.Test == "":
		case event.Action == "pass":
			run.passed = append(run.passed, event.Test)
		case event.Action == "fail":
			run.failed = append(run.failed, event.Test)
			run.output += said[event.Test].String()
		}
	}
	slices.Sort(run.passed)
	slices.Sort(run.failed)
	return run
}
