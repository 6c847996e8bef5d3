package fakebroker

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// rawConn is a client that sends what it is told and nothing else.
type rawConn struct {
	net.Conn
	t      *testing.T
	frames *frame.Reader
}

func rawDial(t *testing.T, s *Server) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &rawConn{conn, t, frame.NewReader(&growing{}, 1<<20)}
}

// send writes frames, given as text.
func (c *rawConn) send(lines ...string) {
	c.t.Helper()
	var b []byte
	for _, line := range lines {
		f, err := frame.ParseText(line)
		must(c.t, err)
		b = append(b, f...)
	}
	_, err := c.Write(b)
	must(c.t, err)
}

// next is the next frame that is no heartbeat; nil when the socket is closed.
func (c *rawConn) next() frame.Frame {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	for {
		f, err := c.frames.Next()
		must(c.t, err)
		if f != nil && f.Type() != frame.TypeHeartbeat {
			return bytes.Clone(f)
		}
		if f == nil {
			n, err := c.Read(c.frames.Space())
			if n == 0 && err != nil {
				return nil
			}
			c.frames.Filled(n)
		}
	}
}

// want wants a frame that begins so, behind its channel.
func (c *rawConn) want(text string) frame.Frame {
	c.t.Helper()
	f := c.next()
	if f == nil {
		c.t.Fatalf("the socket is closed, want %s", text)
	}
	if _, got, _ := strings.Cut(f.String(), " "); !strings.HasPrefix(got, text) {
		c.t.Fatalf("got %s, want %s", f, text)
	}
	return f
}

// wantText wants frames that read exactly so.
func (c *rawConn) wantText(lines ...string) {
	c.t.Helper()
	for _, line := range lines {
		if got := c.next().String(); got != line {
			c.t.Fatalf("got  %s\nwant %s", got, line)
		}
	}
}

// login does guest's handshake and opens channel 1.
func (c *rawConn) login() {
	c.t.Helper()
	c.greet(`{}`, "\x00guest\x00guest")
	c.want("connection.tune")
	c.send("0 connection.tune-ok channel-max=2047 frame-max=131072", `0 connection.open virtual-host="/"`, "1 channel.open")
	c.want("connection.open-ok")
	c.want("channel.open-ok")
}

// greet sends the header and start-ok.
func (c *rawConn) greet(capabilities, response string) {
	c.t.Helper()
	_, err := c.Write(frame.ProtocolHeader)
	must(c.t, err)
	c.want("connection.start")
	caps, err := frame.ParseText("0 connection.start-ok client-properties=" + capabilities)
	must(c.t, err)
	a := caps.Args()
	props := frame.Table{}.AppendTable("capabilities", a.Table())
	_, err = c.Write(frame.Build(nil, 0, frame.ConnectionStartOk).Table(props).ShortStr("PLAIN").LongStr(response).ShortStr("en_US").End())
	must(c.t, err)
}
