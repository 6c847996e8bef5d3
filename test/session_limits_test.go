package test

import (
	"net"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// limitDial connects from a loopback address and tells whether the proxy lets it in:
// whether it passes the broker's greeting on.
func limitDial(t *testing.T, p *daemon.Proxy, from string) (net.Conn, bool) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", p.Addr())
	sessionMust(t, err)
	t.Cleanup(func() { conn.Close() })
	sessionMust(t, conn.SetDeadline(time.Now().Add(streamPatience)))
	_, err = conn.Write(frame.ProtocolHeader)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return conn, err == nil
}

// TestSessionLimitPerAddress: who has as many connections as one address may have
// gets no more, everybody else does, and a place that is left can be taken.
func TestSessionLimitPerAddress(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "limits: {max-connections-per-address: 2}")
	first, ok := limitDial(t, p, "127.0.0.2")
	if _, second := limitDial(t, p, "127.0.0.2"); !ok || !second {
		t.Fatal("a connection under the limit is refused")
	}
	if _, third := limitDial(t, p, "127.0.0.2"); third {
		t.Error("a third connection is let in")
	}
	if _, other := limitDial(t, p, "127.0.0.3"); !other {
		t.Error("another address is refused")
	}
	sessionMust(t, first.Close())
	daemon.Eventually(t, streamPatience, func() error {
		if _, ok := limitDial(t, p, "127.0.0.2"); !ok {
			return net.ErrClosed
		}
		return nil
	})
}

// TestSessionConnectionRate: of more connections than may come in a second none is
// refused; they wait.
func TestSessionConnectionRate(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "limits: {connection-rate: 10}")
	began := time.Now()
	for range 25 { // ten at once, and fifteen more
		if _, ok := limitDial(t, p, "127.0.0.1"); !ok {
			t.Fatal("a connection is refused")
		}
	}
	if took := time.Since(began); took < 1400*time.Millisecond {
		t.Errorf("25 connections were accepted in %s, with a rate of 10 a second", took)
	}
}
