package test

import (
	"bufio"
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// TestEmbeddedDemo: the demo that the README begins with keeps all promises, with a client
// of somebody's beside it. It has the machine for itself, since some promises have a time.
func TestEmbeddedDemo(t *testing.T) {
	binary, err := daemon.Binary()
	sessionMust(t, err)
	cmd := exec.Command(binary, "demo", "--script")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	sessionMust(t, err)
	sessionMust(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	report := ""
	address := regexp.MustCompile(`^a .*(amqp://\S+)`)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		report += lines.Text() + "\n"
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			embeddedGuest(t, m[1])
		}
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	for _, want := range []string{
		"broker c is killed", "broker c is started again", "proxy b is killed", "proxy b is started again",
		"consumer-4 is killed", "consumer-4 is started again",
		", lost 0\n", "of other publishers: 1\n",
		"kept    nothing that was confirmed is lost: 0 of ",
		"kept    no other key moves: 0 did\n",
		"kept    all goes on within seconds: all did\n",
	} {
		if strings.Count(report, want) != 1 {
			t.Errorf("not one %q", want)
		}
	}
	if strings.Count(report, "\nkept ") != 5 || strings.Contains(report, "BROKEN") {
		t.Error("not all promises were kept")
	}
	if t.Failed() {
		t.Logf("the report:\n%s", report)
	}
}

// embeddedGuest joins in: a message to the demo's stream, and a stream of its own.
func embeddedGuest(t *testing.T, url string) {
	t.Helper()
	ch := streamOpen(t, streamDial(t, url))
	streamConfirm(t, ch)
	const own = "shard.mine"
	streamDeclare(t, ch, own, "direct")
	streamPublish(t, ch, streamKeyed("shard.orders", "hello")...)
	streamPublish(t, ch, streamKeyed(own, "k1", "k2", "k3")...)
	deliveries, err := ch.Consume(own, "", true, false, false, false, amqp.Table{})
	sessionMust(t, err)
	for range 3 {
		streamNext(t, deliveries, "delivery")
	}
}

// TestEmbeddedDemoUsage: what is wrong with the command line is not called a broken promise.
func TestEmbeddedDemoUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"demo", "more"}, {"demo", "--fast"}} {
		if _, stderr, code := daemon.Run(t, args...); code != 2 || stderr == "" {
			t.Errorf("%q: exit code %d, %q", args, code, stderr)
		}
	}
}
