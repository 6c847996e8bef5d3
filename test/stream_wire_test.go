package test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// streamWire is a client of bare frames, for what an AMQP library does not do:
// several methods in one write, and property bytes of every shape.
type streamWire struct {
	t    *testing.T
	conn net.Conn
}

// wire connects guest through the proxy, with channel 1 open.
func (l *streamLab) wire(t *testing.T, frameMax int) *streamWire {
	t.Helper()
	return streamDialWire(t, l.proxy.Addr(), l.vhost, frameMax)
}

func streamDialWire(t *testing.T, addr, vhost string, frameMax int) *streamWire {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w := &streamWire{t, conn}
	w.write(frame.ProtocolHeader)
	w.wantMethod(frame.ConnectionStart)
	w.write(frame.Build(nil, 0, frame.ConnectionStartOk).Table(nil).
		ShortStr("PLAIN").LongStr("\x00guest\x00guest").ShortStr("en_US").End())
	w.wantMethod(frame.ConnectionTune)
	w.send(fmt.Sprintf("0 connection.tune-ok channel-max=2047 frame-max=%d", frameMax))
	w.write(frame.Build(nil, 0, frame.ConnectionOpen).ShortStr(vhost).ShortStr("").Bit(false).End())
	w.wantMethod(frame.ConnectionOpenOk)
	w.open(1)
	return w
}

func (w *streamWire) open(channel int) {
	w.t.Helper()
	w.send(fmt.Sprintf("%d channel.open", channel))
	w.wantMethod(frame.ChannelOpenOk)
}

func (w *streamWire) write(b []byte) {
	w.t.Helper()
	w.conn.SetWriteDeadline(time.Now().Add(streamPatience))
	if _, err := w.conn.Write(b); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

// send writes frames, given as text, in one write.
func (w *streamWire) send(lines ...string) {
	w.t.Helper()
	w.write(streamFrames(w.t, lines...))
}

func streamFrames(t *testing.T, lines ...string) []byte {
	t.Helper()
	var out []byte
	for _, line := range lines {
		f, err := frame.ParseText(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f...)
	}
	return out
}

// next is the next frame that is no heartbeat.
func (w *streamWire) next() frame.Frame {
	w.t.Helper()
	for {
		w.conn.SetReadDeadline(time.Now().Add(streamPatience))
		head := make([]byte, 7)
		if _, err := io.ReadFull(w.conn, head); err != nil {
			w.t.Fatalf("read a frame: %v", err)
		}
		f := append(head, make([]byte, int(binary.BigEndian.Uint32(head[3:]))+1)...)
		if _, err := io.ReadFull(w.conn, f[7:]); err != nil {
			w.t.Fatalf("read the rest of a frame: %v", err)
		}
		if f[0] != frame.TypeHeartbeat {
			return f
		}
	}
}

func (w *streamWire) wantMethod(m frame.Method) frame.Frame {
	w.t.Helper()
	f := w.next()
	if f.Type() != frame.TypeMethod || f.Method() != m {
		w.t.Fatalf("got %s, want %s", f, m)
	}
	return f
}

// want wants a frame whose text begins so.
func (w *streamWire) want(text string) frame.Frame {
	w.t.Helper()
	f := w.next()
	if got := f.String(); !strings.HasPrefix(got, text) {
		w.t.Fatalf("got %q, want %q", got, text)
	}
	return f
}

// wantAcks reads confirms until all tags up to last are acked, and wants each tag
// once. Whatever comes before that and is no ack fails the test.
func (w *streamWire) wantAcks(channel uint16, last uint64) {
	w.t.Helper()
	seen := map[uint64]bool{}
	prefix := uint64(0) // all tags up to it are acked by acks of several
	for uint64(len(seen)) < last {
		f := w.next()
		if f.Type() != frame.TypeMethod || f.Method() != frame.BasicAck || f.Channel() != channel {
			w.t.Fatalf("after %d of %d acks: got %s", len(seen), last, f)
		}
		a := f.Args()
		tag, multiple := a.LongLong(), a.Bit()
		if tag == 0 || tag > last || seen[tag] {
			w.t.Fatalf("ack of tag %d, want each of 1 to %d once", tag, last)
		}
		seen[tag] = true
		for multiple && prefix < tag {
			prefix++
			seen[prefix] = true
		}
	}
}

// streamPublishLines is one message of one body frame, or of none.
func streamPublishLines(exchange, key, body string, properties ...string) []string {
	lines := []string{
		fmt.Sprintf("1 basic.publish exchange=%q routing-key=%q", exchange, key),
		strings.TrimSpace(fmt.Sprintf("1 header body-size=%d %s", len(body), strings.Join(properties, " "))),
	}
	if body != "" {
		lines = append(lines, fmt.Sprintf("1 body %q", body))
	}
	return lines
}

// content reads a message: its method, header and body.
func (w *streamWire) content() (method, header frame.Frame, body []byte) {
	w.t.Helper()
	method, header = w.next(), w.next()
	size, ok := frame.BodySize(header)
	if header.Type() != frame.TypeHeader || !ok {
		w.t.Fatalf("after %s: got %s, want a content header", method, header)
	}
	for uint64(len(body)) < size {
		f := w.next()
		if f.Type() != frame.TypeBody {
			w.t.Fatalf("after %d of %d octets of the body: got %s", len(body), size, f)
		}
		body = append(body, f.Payload()...)
	}
	return method, header, body
}
