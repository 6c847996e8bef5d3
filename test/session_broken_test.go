package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// sessionBroken is what a broken client sends on an open connection with channel 1
// open.
type sessionBroken struct {
	name string
	says []byte
	code string // what must end the connection; "" for a closed socket and no word
}

// sessionFrame is a frame of any type, well formed or not in what it carries.
func sessionFrame(kind byte, channel uint16, payload string) []byte {
	return append(append([]byte{kind, byte(channel >> 8), byte(channel), 0, 0, byte(len(payload) >> 8), byte(len(payload))}, payload...), 0xCE)
}

func sessionBrokenClients(t *testing.T) []sessionBroken {
	lines := func(lines ...string) []byte { return streamFrames(t, lines...) }
	begun := lines(`1 basic.publish exchange="amq.fanout"`)
	wrongEnd := lines("1 basic.qos")
	wrongEnd[len(wrongEnd)-1] = 'x'
	return []sessionBroken{
		{"wrong end octet", wrongEnd, "501"},
		{"size over the limit", []byte{frame.TypeMethod, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF}, "501"},
		{"heartbeat with a payload", sessionFrame(frame.TypeHeartbeat, 0, "x"), "501"},
		{"heartbeat on a channel", sessionFrame(frame.TypeHeartbeat, 1, ""), "505"},
		{"method within content", append(begun, lines("1 basic.qos")...), "505"},
		{"body instead of a header", append(begun, lines(`1 body "x"`)...), "505"},
		{"body of an empty message", append(begun, lines("1 header body-size=0", `1 body "x"`)...), "505"},
		{"header without a method", lines("1 header body-size=1"), "505"},
		{"channel.close within content", append(begun, lines("1 channel.close")...), "505"},
		{"channel that is not open", lines("9 basic.qos"), "504"},
		{"channel that is open", lines("1 channel.open"), "504"},
		{"immediate", append(lines("1 basic.publish immediate"), lines("1 header body-size=0")...), "540"},
		{"channel.flow off", lines("1 channel.flow active=0"), "540"},
		{"recover without requeue", lines("1 basic.recover requeue=0"), "540"},
		{"truncated arguments", sessionFrame(frame.TypeMethod, 1, "\x00\x3c\x00\x28\x00\x00\x05ab"), "501"},
		{"property flags that do not decode", append(begun, sessionFrame(frame.TypeHeader, 1, "\x00\x3c\x00\x00"+strings.Repeat("\x00", 8)+"\x80\x00\xff")...), "541"},
		{"unknown class", sessionFrame(frame.TypeMethod, 1, "\x00\x63\x00\x0a"), ""},
		{"unknown frame type", sessionFrame(7, 1, "x"), "501"},
	}
}

// TestSessionBrokenClients: faults end the connection with the broker's code,
// whoever of broker and proxy has found them.
func TestSessionBrokenClients(t *testing.T) {
	t.Parallel()
	p, vhost := sessionProxy(t, rabbit, `policies: [{name: others, pattern: '^stream\.', vhost: "*"}]`), rabbit.VHost(t)
	broken := sessionBrokenClients(t)
	var direct, proxied []*rawConn
	for _, b := range broken { // all first, since the broker takes 3 s to close
		for to, addr := range map[*[]*rawConn]string{&direct: rabbit.Addr(), &proxied: p.Addr()} {
			c := rawDial(t, addr)
			c.login(rawLogin{vhost: vhost})
			c.write(b.says)
			*to = append(*to, c)
		}
	}
	end := func(t *testing.T, c *rawConn) string {
		c.t = t
		frames := c.rest(8 * time.Second)
		if len(frames) == 0 {
			return ""
		}
		args := frames[0].Args()
		if len(frames) > 1 || frames[0].Method() != frame.ConnectionClose {
			t.Errorf("got %s, want one connection.close at most", frames)
		}
		return fmt.Sprint(args.Short())
	}
	for i, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			if got := end(t, direct[i]); got != b.code {
				t.Errorf("the broker ends it with %q, the test expects %q", got, b.code)
			}
			// Where the broker says nothing, the proxy may say that it has gone.
			if got := end(t, proxied[i]); got != b.code && (b.code != "" || got != "320") {
				t.Errorf("the proxy ends it with %q, want %q", got, b.code)
			}
		})
	}
	streamOpen(t, streamDial(t, p.URL("guest", "guest", vhost)))
}
