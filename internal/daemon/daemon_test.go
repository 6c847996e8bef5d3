package daemon

import (
	"context"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap/zaptest"

	"amqproxy/internal/config"
	"amqproxy/internal/fakebroker"
)

const patience = 10 * time.Second

// start runs a daemon before a broker in memory; end ends it in order.
func start(t *testing.T) (d *Daemon, end func()) {
	t.Helper()
	broker, err := fakebroker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Node, cfg.Listen, cfg.Broker, cfg.Admin.Listen = "n1", "127.0.0.1:0", broker.Addr(), "127.0.0.1:0"
	cfg.StateDir, cfg.Gossip.Listen = t.TempDir(), "127.0.0.1:0"
	d, err = New(cfg, "test", zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { broker.Serve() })
	running.Go(func() {
		defer broker.Close()
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	end = func() { stop(); running.Wait() }
	t.Cleanup(end)
	select {
	case <-d.Running():
	case <-time.After(patience):
		t.Fatal("it does not run")
	}
	return d, end
}

// goodbye connects, ends the daemon, and gives what the client heard of that.
func goodbye(t *testing.T, end func(*Daemon, func())) *amqp.Error {
	t.Helper()
	d, stop := start(t)
	conn, err := amqp.Dial("amqp://" + d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	end(d, stop)
	select {
	case err := <-closed:
		return err
	case <-time.After(patience):
		t.Fatal("the client does not hear that it ends")
		return nil
	}
}

// TestStopSaysGoodbye, and TestKillDoesNot.
func TestStopSaysGoodbye(t *testing.T) {
	if err := goodbye(t, func(_ *Daemon, stop func()) { stop() }); err.Code != amqp.ConnectionForced {
		t.Errorf("the client heard %v", err)
	}
}

func TestKillDoesNot(t *testing.T) {
	if err := goodbye(t, func(d *Daemon, _ func()) { d.Kill(); d.Kill() }); err.Code == amqp.ConnectionForced {
		t.Errorf("the client heard %v", err)
	}
}
