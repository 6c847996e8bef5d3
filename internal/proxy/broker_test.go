package proxy

import (
	"strings"
	"testing"
	"testing/synctest"

	"amqproxy/frame"
)

// TestBrokenBroker: what a broker breaks on an open connection ends that connection,
// and the client is told why.
func TestBrokenBroker(t *testing.T) {
	for name, says := range map[string][]byte{
		"wrong end octet":         {frame.TypeHeartbeat, 0, 0, 0, 0, 0, 0, 0xCD},
		"size over the limit":     {frame.TypeBody, 0, 1, 0, 2, 0, 1},
		"size of 0xFFFFFFFF":      {frame.TypeBody, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF},
		"another protocol header": frame.ProtocolHeader,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.open()
				p.say(p.broker, says)
				if heard := string(p.client.heard); !strings.Contains(heard, "CONNECTION_FORCED - the broker sent a broken frame: ") {
					t.Errorf("the client heard %q", heard[max(0, len(heard)-200):])
				}
				p.wantEnd(name)
			})
		})
	}
}

// TestOddBroker: what is well formed is passed on to the client as it is, whether it
// makes sense or not, and the connection goes on.
func TestOddBroker(t *testing.T) {
	for name, says := range map[string][]byte{
		"channel that is not open":  lines(t, "9 basic.qos-ok"),
		"channel above channel_max": lines(t, "65535 basic.qos-ok"),
		"unknown method":            {frame.TypeMethod, 0, 1, 0, 0, 0, 4, 0, 99, 0, 1, 0xCE},
		"unknown frame type":        {7, 0, 1, 0, 0, 0, 1, 'x', 0xCE},
		"heartbeat on a channel":    {frame.TypeHeartbeat, 0, 1, 0, 0, 0, 0, 0xCE},
		"method within content":     lines(t, `1 basic.deliver consumer-tag="c"`, "1 basic.qos-ok"),
		"body without a header":     lines(t, `1 body "x"`),
		"body that is too long":     lines(t, `1 basic.deliver consumer-tag="c"`, "1 header body-size=1", `1 body "abc"`),
		"body of 2^64-1":            lines(t, `1 basic.deliver consumer-tag="c"`, "1 header body-size=18446744073709551615", `1 body "abc"`),
		"confirms of nothing":       lines(t, "1 basic.ack delivery-tag=18446744073709551615 multiple", "1 basic.nack delivery-tag=5"),
		"answers that nobody wants": lines(t, "1 queue.declare-ok", "1 basic.get-empty", "2 basic.cancel-ok", "1 exchange.declare-ok"),
		"close-ok of nothing":       lines(t, "3 channel.close-ok"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.open()
				before := p.client.got
				p.say(p.broker, says)
				if heard := string(p.client.heard[before:]); heard != string(says) {
					t.Errorf("the client heard %q\nof              %q", heard, says)
				}
				p.say(p.client, lines(t, "2 basic.qos"))
				if !strings.HasSuffix(string(p.broker.heard), string(lines(t, "2 basic.qos"))) {
					t.Error("the client's next method did not reach the broker")
				}
				p.end()
			})
		})
	}
}
