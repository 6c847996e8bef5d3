package test

import (
	"bytes"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// TestCLIDev: one command gives a client a broker with streams, and says that it keeps
// nothing.
func TestCLIDev(t *testing.T) {
	t.Parallel()
	binary, err := daemon.Binary()
	sessionMust(t, err)
	addr := broker.Address(t)
	cmd := exec.Command(binary, "dev", "--listen", addr, "--admin", "127.0.0.1:0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	sessionMust(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	url := "amqp://guest:guest@" + addr + "/"
	daemon.Eventually(t, streamPatience, func() error {
		conn, err := amqp.Dial(url)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	const v = "shard.dev"
	ch := streamOpen(t, streamDial(t, url))
	streamDeclare(t, ch, v, "x-consistent-hash")
	streamConfirm(t, ch)
	streamPublish(t, ch, streamKeyed(v, streamKeys("k", 30)...)...)
	q, err := ch.QueueDeclarePassive(v, true, false, false, false, nil)
	sessionMust(t, err)
	if q.Messages != 30 {
		t.Errorf("the stream holds %d messages, want 30", q.Messages)
	}
	sessionMust(t, cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v\n%s", err, stderr.String())
		}
	case <-time.After(streamPatience):
		t.Fatal("it does not end")
	}
	if out := stdout.String(); !strings.Contains(out, url) || !strings.Contains(out, "keeps nothing") {
		t.Errorf("it says %q", out)
	}
}
