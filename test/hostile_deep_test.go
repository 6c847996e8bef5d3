package test

import (
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// deepTable is a table with a table in it, and so on.
func deepTable(depth int) frame.Table {
	// From the inside: every level is one octet of name, the type and a length.
	whole := make([]byte, depth*7)
	at := len(whole)
	for size := 0; at > 0; size += 7 {
		at -= 7
		copy(whole[at:], []byte{1, 'a', 'F', byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
	}
	return whole
}

// deepArray is the same with arrays.
func deepArray(depth int) frame.Table {
	items := make([]byte, depth*5)
	at := len(items)
	for size := 0; at > 0; size += 5 {
		at -= 5
		copy(items[at:], []byte{'A', byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
	}
	return append([]byte{1, 'a'}, items...)
}

// TestHostileDeepTables: tables that are nested 15,000 deep pass wherever a table may
// be, as RabbitMQ takes them; the proxy steps over what is in them.
func TestHostileDeepTables(t *testing.T) {
	t.Parallel()
	const depth = 15_000
	l := startStreams(t, map[string]string{"deep": "{}"})
	l.declare(t, "deep.a")
	for name, deep := range map[string]frame.Table{"tables": deepTable(depth), "arrays": deepArray(depth)} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, l.proxy.Addr())
			c.login(rawLogin{vhost: l.vhost})
			declare := frame.Build(nil, 1, frame.QueueDeclare).Short(0).ShortStr("").Bit(false).Bit(false).Bit(true).Bit(false).Bit(false).Table(deep).End()
			c.write(declare)
			c.want(frame.QueueDeclareOk)
			c.send("1 confirm.select")
			c.want(frame.ConfirmSelectOk)
			c.write(streamFrames(t, `1 basic.publish exchange="deep.a" routing-key="k"`))
			c.write(deepHeader(deep))
			c.want(frame.BasicAck)
			c.send(`1 basic.get queue="deep.a" no-ack`)
			c.want(frame.BasicGetOk)
			header, _ := c.message()
			if h, ok := frame.ParseHeader(header); !ok || string(h.Table) != string(deep) {
				t.Errorf("a table of %d octets came back as one of %d", len(deep), len(h.Table))
			}
			c.logout()
		})
	}
}

// deepHeader is the content header of an empty message with these headers.
func deepHeader(headers frame.Table) []byte {
	payload := append([]byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, frame.FlagHeaders >> 8, 0}, byte(len(headers)>>24), byte(len(headers)>>16), byte(len(headers)>>8), byte(len(headers)))
	payload = append(payload, headers...)
	f := []byte{frame.TypeHeader, 0, 1, byte(len(payload) >> 24), byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload))}
	return append(append(f, payload...), 0xCE)
}

// TestHostileDeepLogin: client-properties and an AMQPLAIN response that are as deep as
// RabbitMQ takes them from a client that has not logged in, in 4096 octets.
func TestHostileDeepLogin(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	for name, login := range map[string]rawLogin{
		"properties": {properties: deepTable(550), vhost: rabbit.VHost(t)},
		"a response": {mechanism: "AMQPLAIN", vhost: rabbit.VHost(t),
			response: string(frame.Table{}.AppendString("LOGIN", "guest").AppendString("PASSWORD", "guest").AppendTable("deep", deepTable(530)))},
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, p.Addr())
			c.login(login)
			c.logout()
		})
	}
}

// TestSessionStricter: where the proxy is stricter than the broker, what either says.
// The list is in security.txt.
func TestSessionStricter(t *testing.T) {
	t.Parallel()
	p, vhost := sessionProxy(t, rabbit, ""), rabbit.VHost(t)
	for _, tc := range []struct {
		name   string
		says   []byte
		proxy  string
		broker frame.Method
	}{
		{"a body that is longer than declared", streamFrames(t, "1 basic.publish", "1 header body-size=1", `1 body "abc"`, "2 channel.open"), "reply-code=501", frame.ChannelOpenOk},
		{"a channel number above channel_max", streamFrames(t, "8 channel.open"), "reply-code=530", frame.ChannelOpenOk},
	} {
		t.Run(tc.name, func(t *testing.T) {
			login := rawLogin{vhost: vhost, channelMax: 7}
			direct, proxied := rawDial(t, rabbit.Addr()), rawDial(t, p.Addr())
			direct.login(login)
			proxied.login(login)
			direct.write(tc.says)
			direct.want(tc.broker)
			proxied.write(tc.says)
			if got := proxied.rest(8 * time.Second); len(got) != 1 || !strings.Contains(got[0].String(), tc.proxy) {
				t.Errorf("the proxy says %s, want %s", got, tc.proxy)
			}
		})
	}
}
