package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/internal/fakebroker"
	"amqproxy/test/daemon"
)

// hostileStream is the stream of these tests.
const hostileStream = "hostile.a"

// hostileLab is a proxy in front of a broker that keeps nothing.
type hostileLab struct {
	proxy *daemon.Proxy
	pid   string
}

// hostileStart starts one. wrap may be nil; see fakebroker.Server.
func hostileStart(t *testing.T, wrap func(net.Conn) net.Conn, options ...func(*daemon.Proxy)) *hostileLab {
	t.Helper()
	s, err := fakebroker.Listen("127.0.0.1:0")
	sessionMust(t, err)
	s.Sink, s.Wrap = true, wrap
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve() })
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
	})
	name := fmt.Sprintf("node: %s@hostile\n", strings.NewReplacer("/", "-").Replace(t.Name()))
	yaml := name + "broker: amqp://" + s.Addr() + "\ndefinitions: {hostile: {shards-per-node: 2}}\n" +
		"policies: [{name: hostile, pattern: '^hostile', vhost: '*', stream-definition: hostile}]\nlimits: {handshake-timeout: 1m}\n"
	p := daemon.New(t, yaml)
	for _, option := range options {
		option(p)
	}
	p.Boot()
	return &hostileLab{p, sessionPID(t, name)}
}

// hostileStep is a part of a conversation: what the client says, and how many frames
// it waits for then.
type hostileStep struct {
	says   []byte
	frames int
}

// hostileTalk is a whole conversation with everything in it that leaves something in
// a proxy: publishes, consumers with their places, and last, since it takes longest, the
// declare of a stream.
func hostileTalk(t *testing.T, user string) []hostileStep {
	login := rawLogin{response: rawPlain(user, "x"), properties: rawCapabilities}
	lines := func(lines ...string) []byte { return streamFrames(t, lines...) }
	return []hostileStep{
		{frame.ProtocolHeader, 1},
		{login.startOk(), 1},
		{append(login.tuneOk(), login.open()...), 1},
		{lines("1 channel.open"), 1},
		{lines("1 confirm.select"), 1},
		{lines(`1 basic.publish exchange="`+hostileStream+`" routing-key="k"`, "1 header body-size=3", `1 body "abc"`), 1},
		{lines(`1 basic.publish routing-key="q"`, "1 header body-size=3", `1 body "abc"`), 1},
		{lines(`1 basic.consume queue="` + hostileStream + `" consumer-tag="c" arguments={x-flood=2 x-size=9}`), 7},
		{lines(`1 basic.ack delivery-tag=1`, `1 basic.get queue="`+hostileStream+`"`), 1},
		{lines("2 channel.open"), 1},
		{lines(`2 basic.consume queue="`+hostileStream+`" consumer-tag="c" nowait`, `2 basic.cancel consumer-tag="c"`), 1},
		{lines(`2 basic.consume queue="` + hostileStream + `"`), 1},
		{lines(`2 exchange.declare exchange="` + hostileStream + `" type="topic" durable`), 1},
		{lines("1 channel.close reply-code=200"), 1},
		{lines("0 connection.close reply-code=200"), 1},
	}
}

// hostileLength is how many octets a client says in a conversation.
func hostileLength(talk []hostileStep) (n int) {
	for _, s := range talk {
		n += len(s.says)
	}
	return n
}

// hostileHeard is how a conversation has ended for the client.
type hostileHeard struct {
	open  bool        // it has heard open-ok
	last  bool        // it has heard all that it waited for
	close frame.Frame // the proxy's connection.close, if there was one
	err   error       // of the socket
}

// hostileRun is the client of a conversation, which says no more than most octets of
// it and then returns.
func hostileRun(c *rawConn, talk []hostileStep, most int) (h hostileHeard) {
	for _, step := range talk {
		says := step.says[:min(len(step.says), most)]
		if _, h.err = c.Write(says); h.err != nil {
			h.err = errors.Join(h.err, hostileDrain(c, &h))
			return h
		}
		if most -= len(says); most == 0 {
			return h
		}
		for range step.frames {
			if h.err = hostileNext(c, &h); h.err != nil || h.close != nil {
				return h
			}
		}
	}
	h.last = true
	return h
}

// hostileNext takes the next frame that is no heartbeat.
func hostileNext(c *rawConn, h *hostileHeard) error {
	for {
		f, err := c.poll(streamPatience)
		if err != nil {
			return err
		}
		switch f.Method() {
		case frame.ConnectionOpenOk:
			h.open = true
		case frame.ConnectionClose:
			h.close = f
		}
		if f.Type() != frame.TypeHeartbeat {
			return nil
		}
	}
}

// hostileDrain takes what was sent before the socket broke.
func hostileDrain(c *rawConn, h *hostileHeard) error {
	for h.close == nil {
		if err := hostileNext(c, h); err != nil {
			return err
		}
	}
	return nil
}

// hostileUses is what a proxy has of what sessions may leak.
type hostileUses struct{ connections, channels, places, goroutines, files int }

func (l *hostileLab) uses(t *testing.T) hostileUses {
	t.Helper()
	m := sessionMetrics(t, l.proxy)
	files, err := os.ReadDir("/proc/" + l.pid + "/fd")
	sessionMust(t, err)
	u := hostileUses{connections: int(m["amqproxy_connections"]), channels: int(m["amqproxy_channels"]),
		goroutines: int(m["go_goroutines"]), files: len(files)}
	for _, row := range sessionRows(t, l.proxy, "shards") {
		u.places += int(row["consumers"].(float64))
	}
	return u
}

// wantNoMore waits until the proxy uses no more than it did before, but for what its
// own work beside the sessions takes at a time.
func (l *hostileLab) wantNoMore(t *testing.T, before hostileUses) {
	t.Helper()
	const beside = 8 // a ping of the broker, an idle link to it, the admin listener
	daemon.Eventually(t, streamPatience, func() error {
		u := l.uses(t)
		if u.connections > before.connections || u.channels > before.channels || u.places > before.places ||
			u.goroutines > before.goroutines+beside || u.files > before.files+beside {
			return fmt.Errorf("the proxy uses %+v, and before %+v", u, before)
		}
		return nil
	})
}

// hostileNeighbour is a client that works all the while, one message at a time, on a
// stream and beside it.
type hostileNeighbour struct {
	t       *testing.T
	conn    *rawConn
	stop    chan struct{}
	working sync.WaitGroup

	mu       sync.Mutex
	confirms int
	slowest  time.Duration
	err      error
}

func (l *hostileLab) neighbour(t *testing.T) *hostileNeighbour {
	t.Helper()
	n := &hostileNeighbour{t: t, conn: rawDial(t, l.proxy.Addr()), stop: make(chan struct{})}
	n.conn.login(rawLogin{})
	n.conn.send(`1 exchange.declare exchange="`+hostileStream+`" type="topic" durable`, "1 confirm.select")
	n.conn.want(frame.ExchangeDeclareOk)
	n.conn.want(frame.ConfirmSelectOk)
	var messages [2][]byte
	for i, exchange := range []string{hostileStream, "amq.fanout"} {
		messages[i] = streamFrames(t, `1 basic.publish exchange="`+exchange+`" routing-key="k"`, "1 header body-size=3", `1 body "abc"`)
	}
	n.working.Go(func() {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-n.stop:
				return
			case <-pace.C:
			}
			began := time.Now()
			if err := hostileRound(n.conn, messages[i%2], frame.BasicAck); err != nil {
				n.mu.Lock()
				n.err = err
				n.mu.Unlock()
				return
			}
			n.mu.Lock()
			n.confirms++
			n.slowest = max(n.slowest, time.Since(began))
			n.mu.Unlock()
		}
	})
	return n
}

// hostileRound says something and wants one method.
func hostileRound(c *rawConn, says []byte, m frame.Method) error {
	c.SetWriteDeadline(time.Now().Add(streamPatience))
	if _, err := c.Write(says); err != nil {
		return err
	}
	for {
		f, err := c.poll(streamPatience)
		switch {
		case err != nil:
			return err
		case f.Type() == frame.TypeHeartbeat:
			continue
		case f.Method() != m:
			return fmt.Errorf("got %s, want %s", f, m)
		}
		return nil
	}
}

// wantServed wants the neighbour to get so many confirms more in time.
func (n *hostileNeighbour) wantServed(confirms int, within time.Duration) {
	n.t.Helper()
	count := func() int {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.confirms
	}
	first := count()
	daemon.Eventually(n.t, within, func() error {
		if got := count() - first; got < confirms {
			return fmt.Errorf("the neighbour got %d confirms, want %d", got, confirms)
		}
		return nil
	})
}

// done ends the neighbour, which must have noticed nothing: no fault, and no message
// that took longer than within.
func (n *hostileNeighbour) done(within time.Duration) {
	n.t.Helper()
	close(n.stop)
	n.working.Wait()
	if n.err != nil || n.confirms == 0 || n.slowest > within {
		n.t.Errorf("the neighbour got %d confirms, the slowest in %s (at most %s), and ended with %v", n.confirms, n.slowest, within, n.err)
	}
}
