package proxy

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"

	"amqproxy/frame"
)

// TestHandshakeBrokenBroker: what does not belong to a handshake ends it, whatever
// the broker says and whenever, and the client has heard nothing of it.
func TestHandshakeBrokenBroker(t *testing.T) {
	broken := map[string][]byte{
		"wrong end octet":         {1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 41, 0xCD},
		"size over the limit":     {1, 0, 0, 0, 0, 0x20, 1},
		"size of 0xFFFFFFFF":      {1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF},
		"unknown frame type":      {7, 0, 0, 0, 0, 0, 1, 0, 0xCE},
		"method without an id":    {1, 0, 0, 0, 0, 0, 2, 0, 10, 0xCE},
		"unknown method":          lines(t, "0 basic.qos-ok"),
		"method on a channel":     lines(t, "1 channel.open-ok"),
		"header":                  lines(t, "1 header body-size=5"),
		"body":                    lines(t, `0 body "x"`),
		"another protocol header": []byte("AMQP\x01\x01\x00\x0a"),
	}
	for name, says := range broken {
		for at, line := range handshakeLines[:6] {
			if line.client {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.handshake(at)
				before := p.client.got
				p.say(p.broker, says)
				heard := string(p.client.heard[before:])
				// Behind connection.open it can be told.
				if at < 5 && heard != "" || at == 5 && !strings.Contains(heard, "CONNECTION_FORCED") {
					t.Errorf("%s instead of %s: the client heard %q", name, line.text, heard)
				}
				p.wantEnd(name + " instead of " + line.text)
			})
		}
	}
}

// TestHandshakeUnasked: an answer to what the client has not said yet ends the session.
func TestHandshakeUnasked(t *testing.T) {
	for at := range 5 {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.handshake(at)
			p.say(p.broker, lines(t, "0 connection.open-ok"))
			p.wantEnd("open-ok " + handshakeLines[at].text)
		})
	}
}

// TestHandshakeFrameMax: a frame_max that is too small to work with is refused.
func TestHandshakeFrameMax(t *testing.T) {
	for _, c := range []struct {
		after  int
		broker bool
		line   string
	}{
		{2, true, "0 connection.tune channel-max=1 frame-max=1"},
		{2, true, "0 connection.tune frame-max=4095"},
		{3, false, "0 connection.tune-ok frame-max=1"},
		{3, false, "0 connection.tune-ok frame-max=4095"},
		{3, false, "0 connection.tune-ok frame-max=131073"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.handshake(c.after)
			from, to := p.client, p.broker
			if c.broker {
				from, to = p.broker, p.client
			}
			before := to.got
			p.say(from, lines(t, c.line))
			if to.got != before {
				t.Errorf("%s was passed on", c.line)
			}
			p.wantEnd(c.line)
		})
	}
}

// TestHandshakeLimit: before the broker knows who the client is no frame may be over
// 8 KiB, whatever the client says that it has agreed to.
func TestHandshakeLimit(t *testing.T) {
	large := func(n int) []byte {
		return append(append([]byte{frame.TypeBody, 0, 1, 0, 0, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{'x'}, n)...), 0xCE)
	}
	early := append(bytes.Clone(frame.ProtocolHeader), lines(t, handshakeLines[1].text, handshakeLines[3].text, handshakeLines[4].text)...)
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.say(p.client, append(bytes.Clone(early), large(8193)[:7]...))
			if !strings.Contains(string(p.client.heard), "FRAME_ERROR - frame of 8193 bytes") {
				t.Errorf("the client heard %q, want 501", p.client.heard)
			}
			p.wantEnd("a frame of 8193 octets")
		})
	})
	t.Run("let in", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			p.say(p.client, early)
			for _, i := range []int{0, 2, 5} {
				p.say(p.broker, lines(t, handshakeLines[i].text))
			}
			before := p.broker.got
			p.say(p.client, append(lines(t, "1 channel.open"), large(8193)...))
			if got := p.broker.got - before; got < 8193 {
				t.Errorf("%d octets reached the broker, the client heard %q", got, p.client.heard)
			}
			p.end()
		})
	})
}
