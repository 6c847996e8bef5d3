package fakebroker

import (
	"fmt"
	"net"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestPrefetch: a consumer gets no more than it has room for, nor do all of a
// channel.
func TestPrefetch(t *testing.T) {
	for name, global := range map[string]bool{"each": false, "global": true} {
		t.Run(name, func(t *testing.T) {
			ch := dial(t, start(t))
			declare(t, ch, "q", nil)
			declare(t, ch, "p", nil)
			must(t, ch.Qos(2, 0, global))
			fromQ, err := ch.Consume("q", "q", false, false, false, false, nil)
			must(t, err)
			fromP, err := ch.Consume("p", "p", false, false, false, false, nil)
			must(t, err)
			put(t, ch, "q", "1", "2", "3")
			last := wantNext(t, fromQ, "1", "2")
			wantNone(t, ch, fromQ)
			put(t, ch, "p", "a")
			if global {
				wantNone(t, ch, fromP)
				must(t, last.Ack(true))
				wantNext(t, fromP, "a")
			} else {
				wantNext(t, fromP, "a")
				must(t, last.Ack(true))
			}
			last = wantNext(t, fromQ, "3")
			must(t, last.Nack(false, true))
			if d := wantNext(t, fromQ, "3"); !d.Redelivered {
				t.Error("not redelivered")
			}
		})
	}
}

// TestTurns: consumers share, the first comes first; one with a higher priority takes
// all that it can.
func TestTurns(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "q", nil)
	one, err := ch.Consume("q", "one", true, false, false, false, nil)
	must(t, err)
	two, err := dial(t, s).Consume("q", "two", true, false, false, false, nil)
	must(t, err)
	put(t, ch, "q", "1", "2", "3", "4")
	wantNext(t, one, "1", "3")
	wantNext(t, two, "2", "4")
	high := dial(t, s)
	must(t, high.Qos(2, 0, false))
	first, err := high.Consume("q", "first", false, false, false, false, amqp.Table{"x-priority": int32(1)})
	must(t, err)
	put(t, ch, "q", "5", "6", "7")
	wantNext(t, first, "5", "6")
	wantNext(t, one, "7")
}

// TestExclusiveConsumer: it is alone, until it ends.
func TestExclusiveConsumer(t *testing.T) {
	s := start(t)
	owner := dial(t, s)
	declare(t, owner, "q", nil)
	_, err := owner.Consume("q", "c", false, true, false, false, nil)
	must(t, err)
	_, err = dial(t, s).Consume("q", "", false, false, false, false, nil)
	wantCode(t, err, 403)
	must(t, owner.Cancel("c", false))
	_, err = owner.Consume("q", "shared", false, false, false, false, nil)
	must(t, err)
	_, err = dial(t, s).Consume("q", "", false, true, false, false, nil)
	wantCode(t, err, 403)
	_, err = owner.Consume("q", "shared", false, false, false, false, nil)
	if err == nil {
		t.Error("a consumer tag was used twice")
	}
}

// TestGone: what a client had goes to another when its socket closes, in order.
func TestGone(t *testing.T) {
	s := start(t)
	conn := connect(t, s)
	ch := open(t, conn)
	declare(t, ch, "q", nil)
	put(t, ch, "q", "1", "2", "3")
	deliveries, err := ch.Consume("q", "c", false, false, false, false, nil)
	must(t, err)
	wantNext(t, deliveries, "1", "2", "3")
	other, err := dial(t, s).Consume("q", "c", false, false, false, false, nil)
	must(t, err)
	s.mu.Lock()
	for c := range s.conns {
		if c.RemoteAddr().String() == conn.LocalAddr().String() {
			c.Close()
		}
	}
	s.mu.Unlock()
	wantNext(t, other, "1", "2", "3")
}

// TestSlowConsumer: a consumer that reads nothing has no more waiting for it than the
// outbox takes, and the rest stays for others.
func TestSlowConsumer(t *testing.T) {
	s := start(t)
	slow := rawDial(t, s)
	must(t, slow.Conn.(*net.TCPConn).SetReadBuffer(64<<10)) // and the kernel takes no more of its own
	slow.login()
	slow.send(`1 queue.declare queue="q"`, `1 basic.consume queue="q" no-ack nowait`)
	slow.wantText(`1 queue.declare-ok queue="q"`)
	ch := dial(t, s)
	const count, size = 640, 64 << 10
	body := make([]byte, size)
	for i := range count {
		copy(body, fmt.Sprintf("%04d", i))
		must(t, ch.Publish("", "q", false, false, amqp.Publishing{Body: body}))
	}
	q, err := ch.QueueDeclarePassive("q", false, false, false, false, nil)
	must(t, err)
	if q.Messages < count/4 {
		t.Fatalf("%d of %d messages are left in the queue, want most of them", q.Messages, count)
	}
	for i := range count {
		slow.want("basic.deliver")
		slow.want("header")
		if got := slow.want("body").Payload(); string(got[:4]) != fmt.Sprintf("%04d", i) {
			t.Fatalf("message %d is %s", i, got[:4])
		}
	}
}
