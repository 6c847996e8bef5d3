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

// TestDemo: what `make demo-rabbitmq` shows is true: the keys of a dead broker move and
// return, and nothing is lost.
func TestDemo(t *testing.T) {
	t.Parallel()
	proxy, err := daemon.Binary()
	if err != nil {
		t.Fatal(err)
	}
	// Built and not with go run, of which the demo would outlive the end of this test.
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", demo, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(demo, "-proxy", proxy)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s\n%s", err, stdout.String(), stderr.String())
	}
	for _, want := range []string{
		" keys of rabbit-3@localhost, and 0 of the others.",
		"Returned: 3000 of 3000 keys",
		"Published 9000, confirmed 9000, received 9000, repeated 0, lost 0.",
	} {
		if strings.Count(stdout.String(), want) != 1 {
			t.Errorf("not one line with %q in\n%s", want, stdout.String())
		}
	}
}
