package test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// sessionShutdownYAML has a stream, since publishes to one have confirms that the
// proxy keeps account of.
const sessionShutdownYAML = `node: shutdown@test
policies: [{name: streams, pattern: '^stream\.', vhost: "*"}]
`

// TestSessionShutdown: on SIGTERM clients get their confirms and then
// connection.close 320; new ones are turned away; the process ends in time and
// with code 0, though one client never answers.
func TestSessionShutdown(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, sessionShutdownYAML+"limits: {shutdown-timeout: 3s}")
	vhost := rabbit.VHost(t)
	url := p.URL("guest", "guest", vhost)
	streamDeclare(t, streamOpen(t, streamDial(t, url)), "stream.s", "x-consistent-hash")
	polite := streamDial(t, url).NotifyClose(make(chan *amqp.Error, 1))
	queue := streamOpen(t, streamDial(t, rabbit.URL(vhost)))
	_, err := queue.QueueDeclare("q", true, false, false, false, nil)
	sessionMust(t, err)
	mute := rawDial(t, p.Addr())
	mute.login(rawLogin{vhost: vhost})
	publishers := []*sessionPublisher{
		sessionPublish(t, p, vhost, `exchange="stream.s" routing-key="k"`),
		sessionPublish(t, p, vhost, `routing-key="q"`),
	}
	began := time.Now()
	p.Signal(syscall.SIGTERM)

	for _, publisher := range publishers {
		publisher.wantAcksThenClose()
	}
	streamWantError(t, streamNext(t, polite, "the end of the connection"), amqp.ConnectionForced, "CONNECTION_FORCED")
	mute.wantShutdown()
	sessionWantTurnedAway(t, p)
	if code := p.Wait(time.Until(began.Add(5 * time.Second))); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	sessionEnded(t, p, mute.LocalAddr().String(), "proxy", "shutting down")
	q, err := queue.QueueDeclarePassive("q", true, false, false, false, nil)
	if err != nil || q.Messages != sessionPublished {
		t.Errorf("the queue holds %d messages, %v; want %d", q.Messages, err, sessionPublished)
	}
}

func (c *rawConn) wantShutdown() {
	c.t.Helper()
	if got := c.want(frame.ConnectionClose).String(); !strings.HasPrefix(got, `0 connection.close reply-code=320 reply-text="CONNECTION_FORCED - `) {
		c.t.Errorf("got %s, want code 320 CONNECTION_FORCED", got)
	}
}

const sessionPublished = 2000

// sessionPublisher is a client that has sent persistent messages, which the proxy
// has read, and that waits for their confirms.
type sessionPublisher struct {
	*rawConn
	to    string
	acked map[uint64]bool
}

func sessionPublish(t *testing.T, p *daemon.Proxy, vhost, to string) *sessionPublisher {
	t.Helper()
	c := &sessionPublisher{rawDial(t, p.Addr()), to, map[uint64]bool{}}
	c.login(rawLogin{vhost: vhost})
	c.send("1 confirm.select")
	c.want(frame.ConfirmSelectOk)
	message := streamFrames(t, "1 basic.publish "+to, "1 header body-size=1 delivery-mode=2", `1 body "x"`)
	c.write([]byte(strings.Repeat(string(message), sessionPublished)))
	c.send("2 channel.open")
	for { // its answer says that all before it has been read
		f := c.next()
		if f.Method() == frame.ChannelOpenOk {
			return c
		}
		c.ack(f)
	}
}

func (c *sessionPublisher) ack(f frame.Frame) {
	c.t.Helper()
	if f.Method() != frame.BasicAck {
		c.t.Fatalf("publishes with %s: got %s after %d of %d acks", c.to, f, len(c.acked), sessionPublished)
	}
	args := f.Args()
	tag, multiple := args.LongLong(), args.Bit()
	c.acked[tag] = true
	for tag--; multiple && tag > 0 && !c.acked[tag]; tag-- {
		c.acked[tag] = true
	}
}

// wantAcksThenClose wants the acks that are missing and only then the shutdown's
// connection.close, which it answers.
func (c *sessionPublisher) wantAcksThenClose() {
	c.t.Helper()
	c.t.Logf("publishes with %s: %d acks came before the signal", c.to, len(c.acked))
	for len(c.acked) < sessionPublished {
		c.ack(c.next())
	}
	c.wantShutdown()
	c.send("0 connection.close-ok")
	c.wantEOF(streamPatience)
}

// sessionWantTurnedAway wants a proxy that is shutting down to take no new client,
// and to say so where it is asked.
func sessionWantTurnedAway(t *testing.T, p *daemon.Proxy) {
	t.Helper()
	if conn, err := net.DialTimeout("tcp", p.Addr(), time.Second); err == nil {
		c := &rawConn{conn, t, frame.NewReader(rawBuffers{}, 1<<20)}
		defer c.Close()
		c.Write(frame.ProtocolHeader)
		c.wantEOF(time.Second)
	}
	client := http.Client{Timeout: time.Second}
	resp, err := client.Get("http://" + p.Admin() + "/readyz")
	if err != nil {
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz says %d during the shutdown, want 503", resp.StatusCode)
	}
}

// TestSessionShutdownSignals: which signals end the proxy, and how fast.
func TestSessionShutdownSignals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		mute    bool // whether a client is there that does not answer
		signals []os.Signal
		within  time.Duration
		code    string
	}{
		{"no clients", false, []os.Signal{syscall.SIGTERM}, 3 * time.Second, "0"},
		{"SIGINT", false, []os.Signal{syscall.SIGINT}, 3 * time.Second, "0"},
		{"a second SIGTERM", true, []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 3 * time.Second, ""},
		{"SIGINT and SIGTERM", true, []os.Signal{syscall.SIGINT, syscall.SIGTERM}, 3 * time.Second, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := sessionProxy(t, rabbit, "limits: {shutdown-timeout: 1m}")
			c := rawDial(t, p.Addr())
			c.login(rawLogin{vhost: rabbit.VHost(t)})
			if !tc.mute {
				c.logout()
				sessionGone(t, p, c.LocalAddr().String())
			}
			for i, s := range tc.signals {
				p.Signal(s)
				if i+1 < len(tc.signals) {
					c.wantShutdown() // the first signal has been taken
				}
			}
			if code := fmt.Sprint(p.Wait(tc.within)); tc.code != "" && code != tc.code {
				t.Errorf("exit code %s, want %s", code, tc.code)
			}
		})
	}
}

// TestSessionShutdownWithinBody: a client that is within a message when the proxy
// ends holds it up no longer than the timeout.
func TestSessionShutdownWithinBody(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "limits: {shutdown-timeout: 2s}")
	c := rawDial(t, p.Addr())
	c.login(rawLogin{vhost: rabbit.VHost(t)})
	c.send(`1 basic.publish exchange="amq.fanout"`, "1 header body-size=100", `1 body "begun"`)
	c.openChannel(2) // an answer: what came before has been taken
	p.Signal(syscall.SIGTERM)
	c.wantShutdown()
	c.send("0 connection.close-ok")
	if code := p.Wait(5 * time.Second); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
