package test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// sessionProxy runs a proxy for a broker, with more lines of YAML.
func sessionProxy(t *testing.T, n *broker.Node, yaml string) *daemon.Proxy {
	t.Helper()
	return daemon.Start(t, "broker: amqp://"+n.Addr()+"\n"+yaml)
}

func sessionMust(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rawConn is a client that sends what it is told and nothing else, from the very
// first octet: no handshake, no answers, no heartbeats of its own.
type rawConn struct {
	net.Conn
	t      *testing.T
	frames *frame.Reader
}

type rawBuffers struct{}

func (rawBuffers) Get() []byte { return make([]byte, 64<<10) }
func (rawBuffers) Put([]byte)  {}

func rawDial(t *testing.T, addr string) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	sessionMust(t, err)
	t.Cleanup(func() { conn.Close() })
	return &rawConn{conn, t, frame.NewReader(rawBuffers{}, 1<<20)}
}

func (c *rawConn) write(b []byte) {
	c.t.Helper()
	c.SetWriteDeadline(time.Now().Add(streamPatience))
	if _, err := c.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// send writes frames, given as text, in one write.
func (c *rawConn) send(lines ...string) {
	c.t.Helper()
	c.write(streamFrames(c.t, lines...))
}

// poll reads the next frame of any kind, at most for so long. A timeout leaves
// what has come of a frame to the next poll.
func (c *rawConn) poll(patience time.Duration) (frame.Frame, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	for {
		if f, err := c.frames.Next(); f != nil || err != nil {
			return bytes.Clone(f), err
		}
		n, err := c.Read(c.frames.Space())
		c.frames.Filled(n)
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// next is the next frame that is no heartbeat.
func (c *rawConn) next() frame.Frame {
	c.t.Helper()
	for {
		f, err := c.poll(streamPatience)
		if err != nil {
			c.t.Fatalf("read a frame: %v", err)
		}
		if f.Type() != frame.TypeHeartbeat {
			return f
		}
	}
}

func (c *rawConn) want(m frame.Method) frame.Frame {
	c.t.Helper()
	f := c.next()
	if f.Type() != frame.TypeMethod || f.Method() != m {
		c.t.Fatalf("got %s, want %s", f, m)
	}
	return f
}

// wantText wants a frame that reads exactly so.
func (c *rawConn) wantText(text string) {
	c.t.Helper()
	if got := c.next().String(); got != text {
		c.t.Fatalf("got %s\nwant %s", got, text)
	}
}

// rest is all frames but heartbeats until the other side closes the socket, which
// it must do in time. A connection.close is answered.
func (c *rawConn) rest(patience time.Duration) (frames []frame.Frame) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		f, err := c.poll(time.Until(deadline))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.t.Fatalf("the socket is still open after %s; frames so far: %s", patience, frames)
		case err != nil: // end of file, or a reset where octets of ours were still unread
			return frames
		case f.Type() == frame.TypeHeartbeat:
			continue
		case f.Type() == frame.TypeMethod && f.Method() == frame.ConnectionClose:
			c.Write(streamFrames(c.t, "0 connection.close-ok")) // the socket may be closed already
		}
		frames = append(frames, f)
	}
}

// wantEOF wants the socket closed in time and nothing before that.
func (c *rawConn) wantEOF(patience time.Duration) {
	c.t.Helper()
	if frames := c.rest(patience); frames != nil {
		c.t.Fatalf("got %s, want the socket closed", frames)
	}
}

// rawLogin is what a client says in a handshake; the zero value is guest's on
// vhost /, with the broker's frame-max and no heartbeats.
type rawLogin struct {
	mechanism  string
	response   string
	properties frame.Table
	vhost      string
	channelMax uint16
	frameMax   uint32
	heartbeat  uint16
}

// rawCapabilities are client-properties that ask for a connection.close when the
// login fails.
var rawCapabilities = frame.Table{}.AppendTable("capabilities",
	frame.Table{}.AppendFlag("authentication_failure_close", true))

// rawPlain is a PLAIN response.
func rawPlain(user, password string) string { return "\x00" + user + "\x00" + password }

func (l rawLogin) startOk() []byte {
	return frame.Build(nil, 0, frame.ConnectionStartOk).Table(l.properties).
		ShortStr(cmp.Or(l.mechanism, "PLAIN")).
		LongStr(cmp.Or(l.response, rawPlain("guest", "guest"))).ShortStr("en_US").End()
}

func (l rawLogin) tuneOk() []byte {
	return frame.Build(nil, 0, frame.ConnectionTuneOk).Short(cmp.Or(l.channelMax, 2047)).
		Long(cmp.Or(l.frameMax, 131072)).Short(l.heartbeat).End()
}

func (l rawLogin) open() []byte {
	return frame.Build(nil, 0, frame.ConnectionOpen).ShortStr(cmp.Or(l.vhost, "/")).ShortStr("").Bit(false).End()
}

// greet sends the protocol header and wants connection.start.
func (c *rawConn) greet() frame.Frame {
	c.t.Helper()
	c.write(frame.ProtocolHeader)
	return c.want(frame.ConnectionStart)
}

// login does the handshake and opens channel 1; it returns connection.tune.
func (c *rawConn) login(l rawLogin) (tune frame.Frame) {
	c.t.Helper()
	c.greet()
	c.write(l.startOk())
	tune = c.want(frame.ConnectionTune)
	c.write(append(l.tuneOk(), l.open()...))
	c.want(frame.ConnectionOpenOk)
	c.openChannel(1)
	return tune
}

func (c *rawConn) openChannel(channel int) {
	c.t.Helper()
	c.send(fmt.Sprintf("%d channel.open", channel))
	c.want(frame.ChannelOpenOk)
}

// logout closes the connection in order. The client closes the socket: RabbitMQ
// itself leaves that to it, for 30 s.
func (c *rawConn) logout() {
	c.t.Helper()
	c.send("0 connection.close reply-code=200")
	c.want(frame.ConnectionCloseOk)
	c.Close()
}

// rawTry is rawDial for many clients at once: they end when they are done.
func rawTry(t *testing.T, addr string) *rawConn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return nil
	}
	return &rawConn{conn, t, frame.NewReader(rawBuffers{}, 1<<20)}
}

// reset ends the connection as a crashed machine's kernel does, with a TCP reset.
func (c *rawConn) reset() {
	c.t.Helper()
	sessionMust(c.t, c.Conn.(*net.TCPConn).SetLinger(0))
	c.Close()
}

// closeWrite ends what the client sends; it still reads.
func (c *rawConn) closeWrite() {
	c.t.Helper()
	sessionMust(c.t, c.Conn.(*net.TCPConn).CloseWrite())
}

// message reads the rest of a content: header and body.
func (c *rawConn) message() (header frame.Frame, body []byte) {
	c.t.Helper()
	header = c.next()
	size, ok := frame.BodySize(header)
	if header.Type() != frame.TypeHeader || !ok {
		c.t.Fatalf("got %s, want a content header", header)
	}
	for uint64(len(body)) < size {
		f := c.next()
		if f.Type() != frame.TypeBody {
			c.t.Fatalf("after %d of %d octets of the body: got %s", len(body), size, f)
		}
		body = append(body, f.Payload()...)
	}
	return header, body
}

// sessionListener accepts TCP connections and never says a word: a broker that
// hangs.
func sessionListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	sessionMust(t, err)
	t.Cleanup(func() { l.Close() })
	go func() { // ends when the listener is closed
		var held []io.Closer
		defer func() {
			for _, c := range held {
				c.Close()
			}
		}()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, conn)
		}
	}()
	return l
}
