package test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"amqproxy/test/daemon"
)

// TestFailover: the example of a fail-over shows what it says, with what it starts itself and
// through the proxies of a running installation: whoever is killed, each key is at one
// consumer, and nothing is lost.
func TestFailover(t *testing.T) {
	t.Parallel()
	proxy, err := daemon.Binary()
	if err != nil {
		t.Fatal(err)
	}
	example := filepath.Join(t.TempDir(), "failover")
	if out, err := exec.Command("go", "build", "-race", "-o", example, "../examples/failover").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	steps := []string{"c2 joins  ", "c3 joins  ", "c2 ends (SIGTERM)", "p2 is killed (SIGKILL)", "c2 joins again", "c3 is killed (SIGKILL)", "c3 joins again"}
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		failover(t, append(steps, "c3's proxy is killed (SIGKILL)", "it is back"), example, "-proxy", proxy)
	})
	t.Run("on RabbitMQ", func(t *testing.T) {
		t.Parallel()
		g := startGroups(t, apart, 2, "", "")
		var urls []string
		for _, p := range g.proxies {
			urls = append(urls, p.URL("guest", "guest", g.vhost))
		}
		failover(t, steps, example, "-urls", strings.Join(urls, ","), "-stream", "ordered.failover")
		g.unread("ordered.failover")
		g.ready("ordered.failover", 0)
	})
}

// failover runs the example and wants these steps of it, and its verdict.
func failover(t *testing.T, steps []string, command ...string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	t.Logf("\n%s", stdout.String())
	for _, want := range append(steps, "; lost 0; ", "At any time every key was at one consumer") {
		if strings.Count(stdout.String(), want) != 1 {
			t.Errorf("not one line with %q in\n%s", want, stdout.String())
		}
	}
}
