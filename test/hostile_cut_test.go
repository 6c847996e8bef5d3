package test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"amqproxy/frame"
)

// cutConn is a broker's end of a connection that breaks when the broker has said so
// many octets. A client says how many by the name of its user: cut-N, or cut-N-reset.
type cutConn struct {
	net.Conn
	greeting *atomic.Int64 // the same for connections that have no user yet; below 0 is never

	mu    sync.Mutex
	said  int
	cut   int // below 0 is never
	reset bool
}

// cutting makes such connections.
func cutting(greeting *atomic.Int64) func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn {
		return &cutConn{Conn: c, greeting: greeting, cut: int(greeting.Load())}
	}
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if _, name, found := bytes.Cut(b[:n], []byte("\x00cut-")); found {
		name, _, _ = bytes.Cut(name, []byte("\x00"))
		c.mu.Lock()
		fmt.Sscan(string(name), &c.cut) // "N-reset" reads as N
		c.reset = bytes.HasSuffix(name, []byte("reset"))
		c.mu.Unlock()
	}
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut < 0 || c.said+len(b) <= c.cut {
		c.said += len(b)
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:max(0, c.cut-c.said)])
	c.said += n
	if c.reset {
		c.Conn.(*net.TCPConn).SetLinger(0)
	}
	c.Conn.Close()
	return n, net.ErrClosed
}

// TestHostileBrokerCuts: a broker that is gone behind any octet of what it says ends
// the session of that one client, which is told when it can hear it: with
// connection.close from connection.open on, with the end of its socket before that.
func TestHostileBrokerCuts(t *testing.T) {
	t.Parallel()
	greeting := &atomic.Int64{}
	greeting.Store(-1)
	l := hostileStart(t, cutting(greeting))
	neighbour := l.neighbour(t)
	talk := hostileTalk(t, "cut-1000000")
	whole := &hostileCount{Conn: rawDial(t, l.proxy.Addr()).Conn}
	if h := hostileRun(&rawConn{whole, t, frame.NewReader(rawBuffers{}, 1<<20)}, talk, hostileLength(talk)+1); !h.last {
		t.Fatalf("the whole conversation ends with %+v", h)
	}
	whole.Close()
	before := l.uses(t)
	before.connections, before.channels, before.places = 1, 1, 0 // the neighbour's

	const start = 200 // octets of connection.start, at most; and the proxy's and the broker's are about as long
	hostileEach(t, whole.got, func(t *testing.T, at int, reset bool) {
		if at < start {
			return
		}
		user := fmt.Sprintf("cut-%d", at)
		if reset {
			user += "-reset"
		}
		cutHeard(t, l, user)
	})
	l.wantNoMore(t, before)
	neighbour.done(5 * time.Second)
}

// hostileCount counts what is read from a connection.
type hostileCount struct {
	net.Conn
	got int
}

func (c *hostileCount) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.got += n
	return n, err
}

// cutHeard has a conversation that the broker breaks, and wants the client to hear of
// it as it should.
func cutHeard(t *testing.T, l *hostileLab, user string) {
	c := rawTry(t, l.proxy.Addr())
	if c == nil {
		return
	}
	defer c.Close()
	talk := hostileTalk(t, user)
	h := hostileRun(c, talk, hostileLength(talk)+1)
	switch {
	case h.last: // the broker was cut behind its last word that counts
	case h.close != nil && strings.Contains(h.close.String(), `reply-code=320 reply-text="CONNECTION_FORCED - `):
		c.Write(streamFrames(t, "0 connection.close-ok"))
		if err := hostileEnd(c); err != nil {
			t.Errorf("%s: behind connection.close: %v", user, err)
		}
	case h.close != nil:
		t.Errorf("%s: the client got %s", user, h.close)
	case h.open || timedOut(h.err):
		t.Errorf("%s: the client got no connection.close, and %v", user, h.err)
	}
}

// hostileEnd wants the socket closed.
func hostileEnd(c *rawConn) error {
	for {
		f, err := c.poll(streamPatience)
		if timedOut(err) {
			return err
		}
		if err != nil {
			return nil
		}
		if f.Type() != frame.TypeHeartbeat {
			return fmt.Errorf("got %s", f)
		}
	}
}

// timedOut tells whether err says that nothing came in time.
func timedOut(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// TestHostileBrokerCutsGreeting: the same within the broker's first words, when it does
// not know yet whom it talks to.
func TestHostileBrokerCutsGreeting(t *testing.T) {
	t.Parallel()
	greeting := &atomic.Int64{}
	greeting.Store(-1)
	l := hostileStart(t, cutting(greeting))
	before := l.uses(t)
	for at := range int64(200) {
		greeting.Store(at)
		c := rawTry(t, l.proxy.Addr())
		if c == nil {
			return
		}
		c.Write(frame.ProtocolHeader)
		// A refused connection is a broker that can't be reached: its client is greeted
		// by the proxy, to be told.
		if f, err := c.poll(streamPatience); err == nil && f.Method() != frame.ConnectionStart || timedOut(err) {
			t.Errorf("cut at %d: %s, %v; want the socket closed", at, f, err)
		}
		c.Close()
	}
	greeting.Store(-1)
	l.wantNoMore(t, before)
	c := rawDial(t, l.proxy.Addr())
	c.login(rawLogin{})
	c.logout()
}
