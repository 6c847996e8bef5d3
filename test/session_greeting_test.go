package test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// sessionHandshake is all that a client sends until it works on a queue of its
// own, as one piece.
func sessionHandshake(t *testing.T, l rawLogin) []byte {
	return bytes.Join([][]byte{frame.ProtocolHeader, l.startOk(), l.tuneOk(), l.open(),
		streamFrames(t, "1 channel.open", `1 queue.declare queue="q" exclusive`)}, nil)
}

func sessionWantHandshake(c *rawConn) {
	c.t.Helper()
	for _, m := range []frame.Method{frame.ConnectionStart, frame.ConnectionTune, frame.ConnectionOpenOk,
		frame.ChannelOpenOk, frame.QueueDeclareOk} {
		c.want(m)
	}
}

// TestSessionGreeting: a handshake works however its octets come.
func TestSessionGreeting(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	t.Run("one segment", func(t *testing.T) {
		c := rawDial(t, p.Addr())
		c.write(sessionHandshake(t, rawLogin{vhost: rabbit.VHost(t)}))
		sessionWantHandshake(c)
		c.logout()
	})
	t.Run("one octet at a time", func(t *testing.T) {
		c := rawDial(t, p.Addr())
		for _, b := range sessionHandshake(t, rawLogin{vhost: rabbit.VHost(t)}) {
			c.write([]byte{b})
		}
		sessionWantHandshake(c)
		c.logout()
	})
	t.Run("heartbeat before start-ok", func(t *testing.T) {
		c := rawDial(t, p.Addr())
		c.greet()
		c.write(frame.Heartbeat)
		c.write(rawLogin{}.startOk())
		c.want(frame.ConnectionTune)
		c.write(append(rawLogin{}.tuneOk(), rawLogin{}.open()...))
		c.want(frame.ConnectionOpenOk)
		c.logout()
	})
}

// TestSessionUnknownProtocol: whatever is no AMQP 0-9-1 gets its header and is
// closed.
func TestSessionUnknownProtocol(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	for name, said := range map[string]string{
		"AMQP 1.0":      "AMQP\x00\x01\x00\x00",
		"AMQP 1.0 SASL": "AMQP\x03\x01\x00\x00",
		"AMQP 0-10":     "AMQP\x01\x01\x00\x0a",
		"HTTP":          "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"TLS":           "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"a heartbeat":   string(frame.Heartbeat),
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, p.Addr())
			c.write([]byte(said))
			c.SetReadDeadline(time.Now().Add(streamPatience))
			got := make([]byte, len(frame.ProtocolHeader))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, frame.ProtocolHeader) {
				t.Fatalf("got %q, %v; want %q", got, err, frame.ProtocolHeader)
			}
			// A reset is an end too: octets of ours may be unread.
			if n, err := c.Read(got); n != 0 || err == nil {
				t.Errorf("after the header: %q, %v; want the end", got[:n], err)
			}
		})
	}
	streamDial(t, p.URL("guest", "guest", "/"))
}

// TestSessionHandshakeTimeout: a client that does not finish its handshake is
// closed in time, wherever it stops and however busy it looks.
func TestSessionHandshakeTimeout(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "limits: {handshake-timeout: 1s}\nlog: {level: debug}")
	login := rawLogin{}
	stops := map[string]func(c *rawConn){
		"at once":              func(c *rawConn) {},
		"within the header":    func(c *rawConn) { c.write([]byte("AMQP")) },
		"after the header":     func(c *rawConn) { c.greet() },
		"within start-ok":      func(c *rawConn) { c.greet(); c.write(login.startOk()[:20]) },
		"after start-ok":       func(c *rawConn) { login.start(c); c.want(frame.ConnectionTune) },
		"after tune-ok":        func(c *rawConn) { login.start(c); c.want(frame.ConnectionTune); c.write(login.tuneOk()) },
		"with more heartbeats": func(c *rawConn) { c.greet(); go sessionBeat(c) },
	}
	conns, began := map[string]*rawConn{}, time.Now()
	for name, talk := range stops { // all first: their timeouts run side by side
		conns[name] = rawDial(t, p.Addr())
		talk(conns[name])
	}
	for name, c := range conns {
		t.Run(name, func(t *testing.T) {
			c.t = t
			c.wantEOF(5 * time.Second)
			if after := time.Since(began); after < 900*time.Millisecond {
				t.Errorf("closed after %s, want about 1 s", after)
			}
			sessionEnded(t, p, c.LocalAddr().String(), "client or proxy", "handshake")
		})
	}
}

// sessionBeat sends heartbeats until the socket is closed.
func sessionBeat(c *rawConn) {
	for {
		if _, err := c.Write(frame.Heartbeat); err != nil {
			return
		}
		time.Sleep(200 * time.Millisecond) // the pace of this client
	}
}

// TestSessionTune: what client and broker agree on is the same on both sides.
func TestSessionTune(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "limits: {frame-max: 8192}")
	for _, tc := range []struct {
		name   string
		login  rawLogin
		listed string
	}{
		{"all that is offered", rawLogin{frameMax: 8192, channelMax: 2047, heartbeat: 60}, "[[{frame_max,8192},{channel_max,2047},{timeout,60}]]"},
		{"less", rawLogin{frameMax: 4096, channelMax: 9, heartbeat: 7}, "[[{frame_max,4096},{channel_max,9},{timeout,7}]]"},
		{"more heartbeat", rawLogin{frameMax: 5000, channelMax: 1, heartbeat: 600}, "[[{frame_max,5000},{channel_max,1},{timeout,600}]]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.login.vhost = rabbit.VHost(t)
			c := rawDial(t, p.Addr())
			tune := c.login(tc.login)
			if got, want := tune.String(), "0 connection.tune channel-max=2047 frame-max=8192 heartbeat=60"; got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
			if got := sessionInfo(t, rabbit, tc.login.vhost, "frame_max,channel_max,timeout"); got != tc.listed {
				t.Errorf("the broker lists %s\nwant %s", got, tc.listed)
			}
			c.logout()
		})
	}
	t.Run("more than the configured frame-max", func(t *testing.T) {
		c := rawDial(t, p.Addr())
		rawLogin{frameMax: 8193}.whole(c)
		for _, f := range c.rest(8 * time.Second) {
			if f.Method() != frame.ConnectionClose {
				t.Errorf("got %s, want the connection closed", f)
			}
		}
	})
	t.Run("a frame over the agreed size", func(t *testing.T) {
		c := rawDial(t, p.Addr())
		c.login(rawLogin{frameMax: 8192, vhost: rabbit.VHost(t)})
		c.send(`1 basic.publish exchange="amq.fanout"`, "1 header body-size=8193", fmt.Sprintf("1 body %q", strings.Repeat("x", 8193)))
		frames := c.rest(8 * time.Second)
		if len(frames) != 1 || !strings.HasPrefix(frames[0].String(), "0 connection.close reply-code=501") {
			t.Errorf("got %s, want connection.close 501", frames)
		}
	})
}
