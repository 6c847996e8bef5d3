package test

import (
	"testing"
	"time"

	"amqproxy/frame"
)

// TestSessionNothingForStrangers: what a client sends behind connection.open is not
// acted on before the broker has let it in: nobody is told of a stream, and none is
// adopted or deleted for a client that never logged in or was refused.
func TestSessionNothingForStrangers(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"strange": "{shards-per-node: 2, queue-delete: all, queue-declare: answer}"})
	const v = "strange.a"
	l.declare(t, v)
	// One that the proxy has not heard of: the first client who uses it has it adopted.
	const found = "strange.found"
	direct := streamOpen(t, streamDial(t, rabbit.URL(l.vhost)))
	sessionMust(t, direct.ExchangeDeclare(found, "direct", true, false, false, false, nil))
	wrong := rawLogin{vhost: l.vhost}
	wrong.response = rawPlain("guest", "wrong")
	for name, login := range map[string][]byte{
		"without a login":        nil,
		"with a wrong password":  wrong.startOk(),
		"with another mechanism": rawLogin{vhost: l.vhost, mechanism: "NONE", response: "x"}.startOk(),
	} {
		t.Run(name, func(t *testing.T) {
			c := rawDial(t, l.proxy.Addr())
			c.write(frame.ProtocolHeader)
			c.write(login)
			c.send(`0 connection.tune-ok channel-max=10 frame-max=131072`, `0 connection.open virtual-host="`+l.vhost+`"`,
				"1 channel.open", `1 queue.declare queue="`+v+`" passive=1`, `1 queue.delete queue="`+v+`"`,
				"2 channel.open", `2 basic.publish exchange="`+found+`"`, "2 header body-size=0")
			for _, f := range c.rest(12 * time.Second) {
				if f.Channel() != 0 {
					t.Errorf("a stranger got %s", f)
				}
			}
			if state := l.state(t, found); state != "unknown" {
				t.Errorf("a stranger had a stream adopted: it is %s", state)
			}
			if state := l.state(t, v); state != "ready" {
				t.Errorf("a stranger made the stream %s", state)
			}
		})
	}
}
