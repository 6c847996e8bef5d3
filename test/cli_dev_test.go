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
	dev := startDev(t)
	const v = "shard.dev"
	ch := streamOpen(t, streamDial(t, dev.url))
	streamDeclare(t, ch, v, "x-consistent-hash")
	streamConfirm(t, ch)
	streamPublish(t, ch, streamKeyed(v, streamKeys("k", 30)...)...)
	q, err := ch.QueueDeclarePassive(v, true, false, false, false, nil)
	sessionMust(t, err)
	if q.Messages != 30 {
		t.Errorf("the stream holds %d messages, want 30", q.Messages)
	}
	sessionMust(t, dev.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-dev.ended:
		if err != nil {
			t.Errorf("%v\n%s", err, dev.stderr.String())
		}
	case <-time.After(streamPatience):
		t.Fatal("it does not end")
	}
	if out := dev.stdout.String(); !strings.Contains(out, dev.url) || !strings.Contains(out, "keeps nothing") {
		t.Errorf("it says %q", out)
	}
}

// dev is an amqproxy dev that runs.
type dev struct {
	cmd            *exec.Cmd
	url            string
	stdout, stderr bytes.Buffer
	ended          chan error
}

func startDev(t *testing.T, args ...string) *dev {
	t.Helper()
	binary, err := daemon.Binary()
	sessionMust(t, err)
	addr := broker.Address(t)
	d := &dev{cmd: exec.Command(binary, append([]string{"dev", "--listen", addr, "--admin", "127.0.0.1:0"}, args...)...), url: "amqp://guest:guest@" + addr + "/", ended: make(chan error, 1)}
	d.cmd.Stdout, d.cmd.Stderr = &d.stdout, &d.stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	sessionMust(t, d.cmd.Start())
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() { d.cmd.Process.Kill() })
	daemon.Eventually(t, streamPatience, func() error {
		conn, err := amqp.Dial(d.url)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return d
}
