package test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// sessionConnected is how many connections the broker has on a vhost of the
// shared broker.
func sessionConnected(t *testing.T, vhost string) int {
	t.Helper()
	return strings.Count(sessionInfo(t, rabbit, vhost, "user"), "user")
}

// sessionHolds waits until a queue holds so many messages.
func sessionHolds(t *testing.T, ch *amqp.Channel, queue string, want int) {
	t.Helper()
	daemon.Eventually(t, streamPatience, func() error {
		q, err := ch.QueueDeclarePassive(queue, false, false, false, false, nil)
		sessionMust(t, err)
		if q.Messages != want {
			return fmt.Errorf("queue %s holds %d messages, want %d", queue, q.Messages, want)
		}
		return nil
	})
}

// sessionQueue declares a queue past the proxy.
func sessionQueue(t *testing.T, vhost, queue string) *amqp.Channel {
	t.Helper()
	ch := streamOpen(t, streamDial(t, rabbit.URL(vhost)))
	_, err := ch.QueueDeclare(queue, false, false, false, false, nil)
	sessionMust(t, err)
	return ch
}

// rawPublish is one message to the default exchange on channel 1.
func rawPublish(t *testing.T, queue, body string) []byte {
	return streamFrames(t, fmt.Sprintf("1 basic.publish routing-key=%q", queue),
		fmt.Sprintf("1 header body-size=%d", len(body)), fmt.Sprintf("1 body %q", body))
}

// TestSessionClosedByClient: the client's connection.close reaches the broker and
// its answer the client, with what was sent before it done.
func TestSessionClosedByClient(t *testing.T) {
	t.Parallel()
	p, vhost := sessionProxy(t, rabbit, ""), rabbit.VHost(t)
	ch := sessionQueue(t, vhost, "q")
	c := rawDial(t, p.Addr())
	c.login(rawLogin{vhost: vhost})
	client := c.LocalAddr().String()
	sent := strings.Repeat(string(rawPublish(t, "q", "x")), 500)
	c.write(append([]byte(sent), streamFrames(t, `0 connection.close reply-code=200 reply-text="that is all"`)...))
	c.wantText("0 connection.close-ok")
	c.Close()
	sessionHolds(t, ch, "q", 500)
	sessionEnded(t, p, client, "client", "that is all")
	sessionGone(t, p, client)
	daemon.Eventually(t, streamPatience, func() error {
		if n := sessionConnected(t, vhost); n != 1 { // that of ch
			return fmt.Errorf("the broker has %d connections, want 1", n)
		}
		return nil
	})
}

// TestSessionClosedByBroker: what the broker tells a client that it closes is what
// the client hears.
func TestSessionClosedByBroker(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	for _, tc := range []struct {
		name  string
		close func(t *testing.T, vhost string, clients ...*rawConn)
		why   string
	}{
		{"by an operator", func(t *testing.T, vhost string, _ ...*rawConn) {
			_, err := rabbit.Ctl(t.Context(), "close_all_connections", "--vhost", vhost, "time to go")
			sessionMust(t, err)
		}, "320 CONNECTION_FORCED - time to go"},
		{"with its vhost", func(t *testing.T, vhost string, _ ...*rawConn) {
			_, err := rabbit.Eval(t.Context(), fmt.Sprintf(`rabbit_vhost:delete(<<"%s">>, <<"test">>)`, vhost))
			sessionMust(t, err)
		}, "320 CONNECTION_FORCED - vhost '"},
		{"for a fault", func(t *testing.T, _ string, clients ...*rawConn) {
			for _, c := range clients {
				c.send("5 queue.declare")
			}
		}, "504 CHANNEL_ERROR - expected 'channel.open'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vhost := rabbit.VHost(t)
			direct, proxied := rawDial(t, rabbit.Addr()), rawDial(t, p.Addr())
			direct.login(rawLogin{vhost: vhost})
			proxied.login(rawLogin{vhost: vhost})
			tc.close(t, vhost, direct, proxied)
			want, got := direct.rest(streamPatience), proxied.rest(streamPatience)
			// The broker itself says of a vhost either that it is deleted or that it is
			// down, as it comes.
			same := strings.ReplaceAll(fmt.Sprint(want), "is down", "is deleted") == strings.ReplaceAll(fmt.Sprint(got), "is down", "is deleted")
			if len(want) != 1 || !same {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			sessionEnded(t, p, proxied.LocalAddr().String(), "broker", tc.why)
		})
	}
}

// TestSessionHalfClosed: all that a client sent before it closed its sending half
// reaches the broker. (Octets are counted, since the broker itself may drop what
// its channel has not come to when a socket ends.)
func TestSessionHalfClosed(t *testing.T) {
	t.Parallel()
	p, tap := sessionTapped(t, rabbit, "")
	vhost := rabbit.VHost(t)
	ch := sessionQueue(t, vhost, "q")
	c := rawDial(t, p.Addr())
	c.login(rawLogin{vhost: vhost})
	whole := []byte(strings.Repeat(string(rawPublish(t, "q", strings.Repeat("half", 50))), 20_000))
	c.write(whole)
	c.closeWrite()
	c.rest(streamPatience)
	daemon.Eventually(t, streamPatience, func() error {
		sent, _, err := tap.find(vhost)
		if err != nil {
			return err
		}
		_, after, _ := bytes.Cut(sent, streamFrames(t, "1 channel.open"))
		return sessionSame(after, whole)
	})
	daemon.Eventually(t, streamPatience, func() error {
		q, err := ch.QueueDeclarePassive("q", false, false, false, false, nil)
		if err == nil && q.Messages < 10_000 {
			err = fmt.Errorf("the queue holds %d messages", q.Messages)
		}
		return err
	})
	sessionEnded(t, p, c.LocalAddr().String(), "client", "")
	sessionGone(t, p, c.LocalAddr().String())
}

// TestSessionVanishingClients: clients that are gone without a word leave nothing
// behind, neither a session nor a connection nor a part of a message.
func TestSessionVanishingClients(t *testing.T) {
	t.Parallel()
	p, vhost := sessionProxy(t, rabbit, ""), rabbit.VHost(t)
	whole := rawPublish(t, "q", strings.Repeat("x", 1000))
	for _, tc := range []struct {
		name  string
		sends []byte
		ends  func(c *rawConn)
	}{
		{"reset", nil, (*rawConn).reset},
		{"closed socket", nil, func(c *rawConn) { c.Close() }},
		{"closed within a method", whole[:9], func(c *rawConn) { c.Close() }},
		{"closed before the header", streamFrames(t, `1 basic.publish routing-key="q"`), func(c *rawConn) { c.Close() }},
		{"closed within a body", whole[:len(whole)-500], func(c *rawConn) { c.Close() }},
		{"reset within a body", whole[:len(whole)-500], (*rawConn).reset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ch := sessionQueue(t, vhost, "q")
			before := sessionConnected(t, vhost)
			c := rawDial(t, p.Addr())
			c.login(rawLogin{vhost: vhost})
			c.send("1 confirm.select")
			c.want(frame.ConfirmSelectOk)
			for i := range 10 {
				c.write(whole)
				for f := c.want(frame.BasicAck); ; f = c.want(frame.BasicAck) {
					args := f.Args()
					if args.LongLong() == uint64(i+1) {
						break
					}
				}
			}
			if tc.sends != nil {
				c.write(tc.sends)
			}
			client := c.LocalAddr().String()
			tc.ends(c)
			sessionEnded(t, p, client, "client", "")
			sessionGone(t, p, client)
			daemon.Eventually(t, streamPatience, func() error {
				if n := sessionConnected(t, vhost); n != before {
					return fmt.Errorf("the broker has %d connections, want %d", n, before)
				}
				return nil
			})
			if n, err := ch.QueuePurge("q", false); err != nil || n != 10 {
				t.Errorf("the queue held %d messages (%v), want 10", n, err)
			}
		})
	}
}

// TestSessionUpdateSecret: connection.update-secret and its answer pass.
func TestSessionUpdateSecret(t *testing.T) {
	t.Parallel()
	p, vhost := sessionProxy(t, rabbit, ""), rabbit.VHost(t)
	var answers [2]frame.Frame
	for i, addr := range []string{rabbit.Addr(), p.Addr()} {
		c := rawDial(t, addr)
		c.login(rawLogin{vhost: vhost})
		c.send(`0 connection.update-secret new-secret="another" reason="rotation"`)
		answers[i] = c.next()
		if answers[i].Method() == frame.ConnectionUpdateSecretOk {
			c.openChannel(2)
			c.logout()
		}
	}
	if !cmp.Equal(answers[0], answers[1]) {
		t.Errorf("got %s, want %s", answers[1], answers[0])
	}
}

// TestSessionNoBroker: a client of a proxy whose broker is away hears 320 or finds
// its socket closed, in time and for every way of being away.
func TestSessionNoBroker(t *testing.T) {
	t.Parallel()
	silent := sessionListener(t)
	refusing := sessionListener(t)
	refusing.Close()
	for name, addr := range map[string]string{"silent": silent.Addr().String(), "refusing": refusing.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			p := daemon.Start(t, "broker: amqp://"+addr+"\nlimits: {handshake-timeout: 2s}")
			c := rawDial(t, p.Addr())
			c.write(frame.ProtocolHeader)
			c.write(rawLogin{}.startOk())
			for _, f := range c.rest(5 * time.Second) {
				if m := f.Method(); m == frame.ConnectionClose && !strings.Contains(f.String(), "reply-code=320 reply-text=\"CONNECTION_FORCED") {
					t.Errorf("got %s, want code 320", f)
				} else if m != frame.ConnectionStart && m != frame.ConnectionClose {
					t.Errorf("got %s from no broker", f)
				}
			}
			sessionEnded(t, p, c.LocalAddr().String(), "broker", "")
			if status, body := p.Get("/readyz"); status != 503 || !strings.Contains(body, addr) && !strings.Contains(body, "broker") {
				t.Errorf("/readyz says %d %q, want 503 and a reason that names the broker", status, body)
			}
			if row := sessionRows(t, p, "brokers")[0]; row["reachable"] != false || row["address"] != addr || row["reason"] == nil {
				t.Errorf("/api/v1/brokers says %v, want %s unreachable and a reason", row, addr)
			}
			if status, _ := p.Get("/livez"); status != 200 {
				t.Errorf("/livez says %d, want 200: the proxy itself lives", status)
			}
			if code := p.Stop(15 * time.Second); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}
