package test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// sessionBeats is how many heartbeats of 1 s the tests look on: more than the two
// after which a silent peer is given up, and than the three of a lenient one.
const sessionBeats = 4500 * time.Millisecond

// sessionLive is a client with a heartbeat of 1 s that does act at a steady pace,
// for so long or until the other side closes. It returns the heartbeats that it
// received and the error that ended it early.
func sessionLive(c *rawConn, span, pace time.Duration, act func()) (beats int, err error) {
	end := time.Now().Add(span)
	for next := time.Now(); time.Now().Before(end); {
		if !time.Now().Before(next) {
			act()
			next = next.Add(pace)
		}
		f, err := c.poll(min(time.Until(next), time.Until(end)))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return beats, err
		case f.Type() == frame.TypeHeartbeat:
			beats++
		case f.Method() == frame.ConnectionClose:
			return beats, errors.New(f.String())
		}
	}
	return beats, nil
}

// TestSessionHeartbeats: either side's heartbeats are kept on that side alone,
// any traffic counts, and only a client that is silent is closed.
func TestSessionHeartbeats(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	vhost := rabbit.VHost(t)
	for _, tc := range []struct {
		name  string
		login rawLogin
		act   func(c *rawConn)
		beats int // at least so many must come
	}{
		{"only heartbeats", rawLogin{heartbeat: 1}, func(c *rawConn) { c.write(frame.Heartbeat) }, 3},
		{"only traffic", rawLogin{heartbeat: 1}, func(c *rawConn) { c.send("1 basic.qos prefetch-count=1") }, 0},
		{"one octet of a frame at a time", rawLogin{heartbeat: 1}, sessionTrickle(t), 3},
		{"none agreed", rawLogin{heartbeat: 0}, func(c *rawConn) {}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := rawDial(t, p.Addr())
			tc.login.vhost = vhost
			c.login(tc.login)
			beats, err := sessionLive(c, sessionBeats, 400*time.Millisecond, func() { tc.act(c) })
			if err != nil {
				t.Fatalf("the connection ended: %v", err)
			}
			if beats < tc.beats {
				t.Errorf("received %d heartbeats in %s, want at least %d", beats, sessionBeats, tc.beats)
			}
			if tc.login.heartbeat == 0 && beats > 0 {
				t.Errorf("received %d heartbeats, want none", beats)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		c, began := rawDial(t, p.Addr()), time.Now()
		c.login(rawLogin{heartbeat: 1, vhost: vhost})
		beats, err := sessionLive(c, 10*time.Second, time.Hour, func() {})
		if after := time.Since(began); err == nil || after < 1500*time.Millisecond || after > 4*time.Second {
			t.Errorf("ended after %s with %v, want closed after 2 to 3 s", after, err)
		}
		if beats == 0 {
			t.Error("no heartbeat came before the end")
		}
		sessionEnded(t, p, c.LocalAddr().String(), "client or proxy", "heartbeat")
		sessionGone(t, p, c.LocalAddr().String())
	})
}

// sessionTrickle sends the octets of one method, one at each call and never all.
func sessionTrickle(t *testing.T) func(c *rawConn) {
	rest := streamFrames(t, fmt.Sprintf("1 queue.declare queue=%q", strings.Repeat("x", 100)))
	return func(c *rawConn) {
		c.write(rest[:1])
		rest = rest[1:]
	}
}
