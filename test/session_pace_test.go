package test

import (
	"net"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
)

// TestSessionNoDelay: small packets that follow one another are not held back on
// either side of the proxy until the first is acknowledged, which costs 40 ms.
func TestSessionNoDelay(t *testing.T) {
	t.Parallel()
	p, _ := sessionTapped(t, rabbit, "") // the tap acknowledges late
	vhost := rabbit.VHost(t)
	publisher, consumer := rawDial(t, p.Addr()), rawDial(t, p.Addr())
	publisher.login(rawLogin{vhost: vhost})
	consumer.login(rawLogin{vhost: vhost})
	publisher.send(`1 queue.declare queue="q"`, "1 confirm.select")
	publisher.want(frame.QueueDeclareOk)
	publisher.want(frame.ConfirmSelectOk)
	consumer.send(`1 basic.consume queue="q" consumer-tag="c"`)
	consumer.want(frame.BasicConsumeOk)
	publisher.openChannel(2)
	publish, unrouted := rawPublish(t, "q", "x"), streamFrames(t, "2 basic.publish", "2 header body-size=0")
	for _, tc := range []struct {
		name  string
		round func()
	}{
		{"towards the client", func() {
			for range 2 { // two packets to a client that sends none between them
				publisher.write(publish)
				publisher.want(frame.BasicAck)
			}
			for range 2 {
				sessionAckLate(consumer.Conn.(*net.TCPConn))
				consumer.want(frame.BasicDeliver)
				consumer.message()
			}
			consumer.send("1 basic.ack multiple")
		}},
		{"towards the broker", func() {
			publisher.send("2 basic.qos")
			publisher.want(frame.BasicQosOk)
			publisher.write(unrouted)        // a packet that has no answer, and
			time.Sleep(2 * time.Millisecond) // when it has passed, one that has
			publisher.send("2 basic.qos")
			publisher.want(frame.BasicQosOk)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const rounds = 100
			quick := 0
			for range rounds {
				began := time.Now()
				tc.round()
				if time.Since(began) < 30*time.Millisecond { // Nagle's delay is 40 ms, and is in every round
					quick++
				}
			}
			if quick < rounds/4 { // a busy machine has slow ones
				t.Errorf("%d rounds of %d took less than 30 ms", quick, rounds)
			}
		})
	}
}

// TestSessionSlowReader: a client that reads nothing of what is delivered to it is
// closed after write-timeout, with a reason in the log, and is no burden until then.
func TestSessionSlowReader(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "node: slow@test\nlimits: {write-timeout: 2s}")
	pid, vhost := sessionPID(t, "node: slow@test"), rabbit.VHost(t)
	publisher := rawDial(t, p.Addr())
	publisher.login(rawLogin{vhost: vhost})
	publisher.send(`1 queue.declare queue="q"`)
	publisher.want(frame.QueueDeclareOk)
	message := rawPublish(t, "q", strings.Repeat("x", 100_000))
	for range 1000 { // 100 MB
		publisher.write(message)
	}
	publisher.openChannel(2) // an answer: the proxy has passed all of them on

	before := sessionMemory(t, pid, "VmRSS")
	c, began := rawDial(t, p.Addr()), time.Now()
	c.login(rawLogin{vhost: vhost})
	c.send(`1 basic.consume queue="q" no-ack`)
	sessionEnded(t, p, c.LocalAddr().String(), "client or proxy", "write")
	if took := time.Since(began); took < 2*time.Second || took > 10*time.Second {
		t.Errorf("closed after %s, want about 2 s", took)
	}
	if grown := sessionMemory(t, pid, "VmHWM") - before; grown > sessionGrowth {
		t.Errorf("the proxy grew by %d MiB, want at most %d", grown>>20, sessionGrowth>>20)
	}
	publisher.openChannel(3) // others live on
}
