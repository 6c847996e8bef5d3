package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// TestSessionBrokerFaults does to a broker of its own what no other test's broker
// may suffer. The steps follow one another on the same broker and proxy.
func TestSessionBrokerFaults(t *testing.T) {
	t.Parallel()
	own := broker.ForTest(t, broker.Options{})
	p := sessionProxy(t, own, "")
	for _, step := range []struct {
		name string
		run  func(t *testing.T, own *broker.Node, p *daemon.Proxy)
	}{
		{"blocked", sessionBlocked},
		{"blocked for longer than heartbeats", sessionBlockedBeats},
		{"blocked for longer than write-timeout", sessionBlockedWrites},
		{"frozen", sessionFrozen},
		{"frozen at the end", sessionFrozenShutdown},
		{"shut down", sessionBrokerStopped},
		{"killed", sessionBrokerKilled},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, own, p) })
	}
}

// sessionAlarm sets or clears the broker's memory alarm.
func sessionAlarm(t *testing.T, n *broker.Node, on bool) {
	t.Helper()
	limit := "0.8"
	if on {
		limit = "0"
	}
	_, err := n.Ctl(t.Context(), "set_vm_memory_high_watermark", limit)
	sessionMust(t, err)
}

// sessionBlocked: connection.blocked and unblocked reach the client that can
// understand them, and no other.
func sessionBlocked(t *testing.T, own *broker.Node, p *daemon.Proxy) {
	capable := frame.Table{}.AppendTable("capabilities", frame.Table{}.AppendFlag("connection.blocked", true))
	talk := func(addr string, properties frame.Table) *rawConn {
		c := rawDial(t, addr)
		c.login(rawLogin{properties: properties})
		c.send(`1 queue.declare queue="blocked"`)
		c.want(frame.QueueDeclareOk)
		return c
	}
	direct, proxied, plain := talk(own.Addr(), capable), talk(p.Addr(), capable), talk(p.Addr(), nil)
	sessionAlarm(t, own, true)
	for _, c := range []*rawConn{direct, proxied, plain} {
		c.write(rawPublish(t, "blocked", "x"))
	}
	if want, got := direct.want(frame.ConnectionBlocked), proxied.next(); !cmp.Equal(want, got) {
		t.Errorf("got %s, want %s", got, want)
	}
	sessionAlarm(t, own, false)
	direct.want(frame.ConnectionUnblocked)
	proxied.wantText("0 connection.unblocked")
	for _, c := range []*rawConn{direct, proxied, plain} {
		c.send("1 basic.qos")
		c.want(frame.BasicQosOk) // nothing comes before it: the last one heard of no alarm
		c.logout()
	}
	sessionMust(t, sessionPurge(own.URL("/"), "blocked", 3))
}

// sessionPurge wants so many messages in a queue and removes them.
func sessionPurge(url, queue string, want int) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	n, err := ch.QueuePurge(queue, false)
	if err == nil && n != want {
		err = fmt.Errorf("queue %s held %d messages, want %d", queue, n, want)
	}
	return err
}

// sessionBlockedBeats: a publisher that a blocked broker stops for longer than its
// heartbeats allow is not taken for dead, and receives heartbeats.
func sessionBlockedBeats(t *testing.T, own *broker.Node, p *daemon.Proxy) {
	if beats := sessionBlockedFlood(t, own, p, 1); beats < 3 {
		t.Errorf("%d heartbeats came in %s of being blocked, want at least 3", beats, sessionBeats)
	}
}

// sessionBlockedWrites: a broker that blocks publishers may do so for any time; it
// is not a peer that has stopped reading.
func sessionBlockedWrites(t *testing.T, own *broker.Node, _ *daemon.Proxy) {
	sessionBlockedFlood(t, own, sessionProxy(t, own, "limits: {write-timeout: 2s}"), 0)
}

// sessionBlockedFlood publishes more than the sockets on the way take while the
// broker is blocked, and wants all of it confirmed when it is not any more.
func sessionBlockedFlood(t *testing.T, own *broker.Node, p *daemon.Proxy, heartbeat uint16) (beats int) {
	const count = 300
	message := rawPublish(t, "flood", strings.Repeat("x", 128<<10-8))
	sessionAlarm(t, own, true) // before the client has to send heartbeats; it blocks who publishes
	c := rawDial(t, p.Addr())
	c.login(rawLogin{heartbeat: heartbeat})
	c.send(`1 queue.declare queue="flood"`, "1 confirm.select")
	c.want(frame.QueueDeclareOk)
	c.want(frame.ConfirmSelectOk)
	var publisher sync.WaitGroup
	defer publisher.Wait()
	publisher.Go(func() {
		for i := range count {
			if _, err := c.Write(message); err != nil {
				t.Errorf("publish %d: %v", i, err)
				return
			}
		}
	})
	beats, err := sessionLive(c, sessionBeats, time.Hour, func() {})
	if err != nil {
		t.Errorf("the blocked publisher was closed: %v", err)
	}
	sessionAlarm(t, own, false)
	for acked := uint64(0); err == nil && acked < count; {
		args := c.want(frame.BasicAck).Args()
		acked = args.LongLong()
	}
	c.Close()
	if err == nil {
		sessionMust(t, sessionPurge(own.URL("/"), "flood", count))
	}
	return beats
}

// sessionFrozen: a broker that says nothing is given up after its heartbeats, and
// the proxy with it answers new clients in time.
func sessionFrozen(t *testing.T, own *broker.Node, p *daemon.Proxy) {
	c := rawDial(t, p.Addr())
	c.login(rawLogin{heartbeat: 1})
	idle := rawDial(t, p.Addr())
	idle.login(rawLogin{heartbeat: 0})
	sessionMust(t, own.Pause())
	resume := sync.OnceValue(own.Resume)
	defer resume()
	began := time.Now()
	_, err := sessionLive(c, 10*time.Second, 300*time.Millisecond, func() { c.Write(frame.Heartbeat) })
	after := time.Since(began)
	if err == nil || after > 5*time.Second || after < time.Second {
		t.Errorf("the session ended after %s (%v), want 2 to 4 s", after, err)
	}
	if err != nil && strings.Contains(err.Error(), "close") && !strings.Contains(err.Error(), "reply-code=320") {
		t.Errorf("got %v, want connection.close 320", err)
	}
	sessionEnded(t, p, c.LocalAddr().String(), "broker", "heartbeat")
	sessionMust(t, resume())
	idle.send("1 basic.qos")
	idle.want(frame.BasicQosOk)
	idle.logout()
}

// sessionFrozenShutdown: a broker that answers nothing does not hold up the
// proxy's end, though a client has a publish outstanding on it.
func sessionFrozenShutdown(t *testing.T, own *broker.Node, _ *daemon.Proxy) {
	p := sessionProxy(t, own, "limits: {shutdown-timeout: 2s}")
	c := rawDial(t, p.Addr())
	c.login(rawLogin{})
	c.send(`1 queue.declare queue="frozen" exclusive`, "1 confirm.select")
	c.want(frame.QueueDeclareOk)
	c.want(frame.ConfirmSelectOk)
	sessionMust(t, own.Pause())
	defer own.Resume()
	c.write(rawPublish(t, "frozen", "x"))
	p.Signal(syscall.SIGTERM)
	c.wantShutdown()
	c.send("0 connection.close-ok")
	if code := p.Wait(6 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// sessionBrokerStopped: an orderly shutdown is heard in the broker's words; while
// it is away /readyz says so and clients are told in time, and then it serves.
func sessionBrokerStopped(t *testing.T, own *broker.Node, p *daemon.Proxy) {
	direct, proxied := rawDial(t, own.Addr()), rawDial(t, p.Addr())
	direct.login(rawLogin{})
	proxied.login(rawLogin{})
	sessionWantReady(t, p, 200)
	sessionMust(t, own.Stop(t.Context()))
	want, got := direct.rest(streamPatience), proxied.rest(streamPatience)
	if len(want) != 1 || !strings.Contains(want[0].String(), "reply-code=320") || !cmp.Equal(want, got) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	sessionEnded(t, p, proxied.LocalAddr().String(), "broker", "320 CONNECTION_FORCED - broker forced")
	sessionWantReady(t, p, 503)
	_, reason := p.Get("/readyz")
	if !strings.Contains(reason, own.Addr()) && !strings.Contains(reason, "broker") {
		t.Errorf("/readyz gives no reason that names the broker: %q", reason)
	}
	began := time.Now()
	if _, err := amqp.Dial(p.URL("guest", "guest", "/")); err == nil || time.Since(began) > 12*time.Second {
		t.Errorf("dial without a broker: %v after %s, want an error in time", err, time.Since(began))
	}
	sessionMust(t, own.Boot(t.Context()))
	sessionWantReady(t, p, 200)
	streamOpen(t, streamDial(t, p.URL("guest", "guest", "/")))
}

func sessionWantReady(t *testing.T, p *daemon.Proxy, want int) {
	t.Helper()
	daemon.Eventually(t, 30*time.Second, func() error {
		if status, body := p.Get("/readyz"); status != want {
			return fmt.Errorf("/readyz says %d %q, want %d", status, body, want)
		}
		return nil
	})
}

// sessionBrokerKilled: clients of a broker that dies get connection.close 320 from
// the proxy, whatever they were doing.
func sessionBrokerKilled(t *testing.T, own *broker.Node, p *daemon.Proxy) {
	url := p.URL("guest", "guest", "/")
	idle, consuming, publishing := streamDial(t, url), streamDial(t, url), streamDial(t, url)
	ch := streamOpen(t, consuming)
	_, err := ch.QueueDeclare("killed", false, false, false, false, nil)
	sessionMust(t, err)
	_, err = ch.Consume("killed", "", true, false, false, false, nil)
	sessionMust(t, err)
	pub := streamOpen(t, publishing)
	half := rawDial(t, p.Addr())
	half.login(rawLogin{})
	half.write(rawPublish(t, "killed", strings.Repeat("x", 100))[:90])

	var ends []chan *amqp.Error
	for _, conn := range []*amqp.Connection{idle, consuming, publishing} {
		ends = append(ends, conn.NotifyClose(make(chan *amqp.Error, 1)))
	}
	var publisher sync.WaitGroup
	publisher.Go(func() {
		for pub.PublishWithContext(context.WithoutCancel(t.Context()), "", "killed", false, false, amqp.Publishing{Body: []byte("x")}) == nil {
		}
	})
	own.Kill()
	for _, end := range ends {
		if err := streamNext(t, end, "the end of the connection"); err == nil || err.Code != amqp.ConnectionForced {
			t.Errorf("got %v, want connection.close 320", err)
		}
	}
	publisher.Wait()
	frames := half.rest(streamPatience)
	if len(frames) != 1 || !strings.Contains(frames[0].String(), "reply-code=320") {
		t.Errorf("within a body: got %s, want connection.close 320", frames)
	}
	sessionEnded(t, p, half.LocalAddr().String(), "broker", "lost")
	sessionWantReady(t, p, 503)
	var refused *net.OpError
	if _, err := net.Dial("tcp", p.Addr()); errors.As(err, &refused) {
		t.Errorf("the proxy has stopped listening: %v", err)
	}
}
