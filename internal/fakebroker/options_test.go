package fakebroker

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// wantMessages waits until a queue holds so many.
func wantMessages(t *testing.T, ch *amqp.Channel, queue string, want int) {
	t.Helper()
	eventually(t, func() error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err == nil && q.Messages != want {
			err = fmt.Errorf("%s holds %d messages, want %d", queue, q.Messages, want)
		}
		return err
	})
}

// TestTimeToLive: the queue's, the message's, the smaller of the two; a message that is
// not first waits for those before it.
func TestTimeToLive(t *testing.T) {
	ch := dial(t, start(t))
	declare(t, ch, "dead", nil)
	declare(t, ch, "short", amqp.Table{"x-message-ttl": int32(50), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
	declare(t, ch, "long", amqp.Table{"x-message-ttl": int32(600_000), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
	put(t, ch, "short", "queue's")
	wantMessages(t, ch, "dead", 1)
	must(t, ch.Publish("", "long", false, false, amqp.Publishing{Body: []byte("message's"), Expiration: "20"}))
	wantMessages(t, ch, "dead", 2)
	put(t, ch, "long", "in front")
	must(t, ch.Publish("", "long", false, false, amqp.Publishing{Body: []byte("behind"), Expiration: "1"}))
	must(t, ch.Publish("", "short", false, false, amqp.Publishing{Body: []byte("smaller"), Expiration: "600000"}))
	wantMessages(t, ch, "dead", 3)
	wantMessages(t, ch, "long", 2)
	wantBodies(t, ch, "long", "in front")
	wantBodies(t, ch, "dead", "queue's", "message's", "smaller", "behind")
}

// TestNoTimeToLive: with none at all a message comes only to who waits for it.
func TestNoTimeToLive(t *testing.T) {
	ch := dial(t, start(t))
	declare(t, ch, "q", amqp.Table{"x-message-ttl": int32(0)})
	put(t, ch, "q", "nobody waits")
	wantBodies(t, ch, "q")
	deliveries, err := ch.Consume("q", "", true, false, false, false, nil)
	must(t, err)
	put(t, ch, "q", "somebody waits")
	wantNext(t, deliveries, "somebody waits")
}

// TestExpires: an unused queue goes, one with a consumer stays.
func TestExpires(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	const ms = 1000
	declare(t, ch, "unused", amqp.Table{"x-expires": int32(80)})
	declare(t, ch, "used", amqp.Table{"x-expires": int32(ms)})
	_, err := ch.Consume("used", "c", true, false, false, false, nil)
	must(t, err)
	eventually(t, func() error {
		probe := dial(t, s)
		if _, err := probe.QueueDeclarePassive("unused", true, false, false, false, nil); err == nil {
			return fmt.Errorf("the unused queue is still there")
		}
		return nil
	})
	if _, err := dial(t, s).QueueDeclarePassive("used", true, false, false, false, nil); err != nil {
		t.Error("the used queue:", err)
	}
	began := time.Now()
	must(t, ch.Cancel("c", false))
	eventually(t, func() error {
		if _, err := dial(t, s).QueueDeclarePassive("used", true, false, false, false, nil); err == nil {
			return fmt.Errorf("the queue is still there")
		}
		return nil
	})
	if took := time.Since(began); took < ms*time.Millisecond {
		t.Errorf("it went after %s already", took)
	}
}

// TestMaxLength: what is too much goes from the front, or is refused.
func TestMaxLength(t *testing.T) {
	for name, c := range map[string]struct {
		args               amqp.Table
		nacked, left, dead string
	}{
		"length":  {amqp.Table{"x-max-length": int32(2)}, "[]", "[3 4]", "[0 1 2]"},
		"bytes":   {amqp.Table{"x-max-length-bytes": int32(3)}, "[]", "[2 3 4]", "[0 1]"},
		"none":    {amqp.Table{"x-max-length": int32(0)}, "[]", "[]", "[0 1 2 3 4]"},
		"reject":  {amqp.Table{"x-max-length": int32(2), "x-overflow": "reject-publish"}, "[2 3 4]", "[0 1]", "[]"},
		"letters": {amqp.Table{"x-max-length": int32(2), "x-overflow": "reject-publish-dlx"}, "[2 3 4]", "[0 1]", "[2 3 4]"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := dial(t, start(t))
			must(t, ch.Confirm(false))
			c.args["x-dead-letter-exchange"], c.args["x-dead-letter-routing-key"] = "", "dead"
			declare(t, ch, "dead", nil)
			declare(t, ch, "q", c.args)
			nacked, _ := publishAll(t, ch, "q", 5, false)
			left, dead := bodies(t, ch, "q"), bodies(t, ch, "dead")
			if fmt.Sprint(nacked) != c.nacked || left != c.left || dead != c.dead {
				t.Errorf("nacked %v, left %s, dead %s; want %s, %s, %s", nacked, left, dead, c.nacked, c.left, c.dead)
			}
		})
	}
}

// TestDeadLetters: why and from where they come is in their headers.
func TestDeadLetters(t *testing.T) {
	ch := dial(t, start(t))
	must(t, ch.ExchangeDeclare("dlx", "fanout", true, false, false, false, nil))
	declare(t, ch, "dead", nil)
	must(t, ch.QueueBind("dead", "", "dlx", false, nil))
	declare(t, ch, "q", amqp.Table{"x-dead-letter-exchange": "dlx"})
	must(t, ch.QueueBind("q", "k", "amq.direct", false, nil))
	must(t, ch.Publish("amq.direct", "k", false, false, amqp.Publishing{
		Headers: amqp.Table{"CC": []any{"copy"}, "BCC": []any{"hidden"}, "own": "kept"}, Expiration: "60000", Priority: 3}))
	for round := range 2 {
		d, ok, err := ch.Get("q", false)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		must(t, d.Reject(false))
		d, ok, err = ch.Get("dead", true)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		deaths := d.Headers["x-death"].([]any)
		death := maps.Clone(deaths[0].(amqp.Table))
		if age := time.Since(death["time"].(time.Time)); age < -time.Second || age > time.Minute {
			t.Errorf("it died at %s", death["time"])
		}
		delete(death, "time")
		want := amqp.Table{"count": int64(round + 1), "reason": "rejected", "queue": "q", "exchange": "amq.direct",
			"routing-keys": []any{"k", "copy"}, "original-expiration": "60000"}
		if fmt.Sprint(death) != fmt.Sprint(want) || len(deaths) != 1 {
			t.Errorf("round %d: %v\nwant %v", round, deaths, want)
		}
		if d.Exchange != "dlx" || d.RoutingKey != "k" || d.Expiration != "" || d.Priority != 3 || d.Headers["own"] != "kept" ||
			d.Headers["x-first-death-queue"] != "q" || d.Headers["x-first-death-reason"] != "rejected" || d.Headers["x-first-death-exchange"] != "amq.direct" {
			t.Errorf("round %d: %+v", round, d)
		}
		must(t, ch.Publish("amq.direct", "k", false, false, amqp.Publishing{Headers: d.Headers, Priority: 3}))
	}
}

// TestDeadLetterCircle: one that nobody rejects on its way ends.
func TestDeadLetterCircle(t *testing.T) {
	ch := dial(t, start(t))
	declare(t, ch, "q", amqp.Table{"x-message-ttl": int32(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"})
	put(t, ch, "q", "once")
	wantMessages(t, ch, "q", 0)
	declare(t, ch, "a", amqp.Table{"x-message-ttl": int32(1), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "b"})
	declare(t, ch, "b", amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "a"})
	put(t, ch, "a", "twice")
	wantMessages(t, ch, "b", 1)
	d, _, err := ch.Get("b", false)
	must(t, err)
	must(t, d.Reject(false))
	wantMessages(t, ch, "b", 1)
}

// TestSingleActiveConsumer: the others wait until it ends.
func TestSingleActiveConsumer(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "q", amqp.Table{"x-single-active-consumer": true})
	must(t, ch.Qos(1, 0, false))
	first, err := ch.Consume("q", "first", false, false, false, false, nil)
	must(t, err)
	other := dial(t, s)
	second, err := other.Consume("q", "second", false, false, false, false, nil)
	must(t, err)
	put(t, ch, "q", "1", "2", "3")
	one := wantNext(t, first, "1")
	wantNone(t, other, second)
	must(t, ch.Cancel("first", false))
	wantNext(t, second, "2", "3")
	must(t, one.Nack(false, true))
	wantNext(t, second, "1")
}

// TestPriorities: the highest first, and in each the first.
func TestPriorities(t *testing.T) {
	ch := dial(t, start(t))
	declare(t, ch, "q", amqp.Table{"x-max-priority": int32(5)})
	for i, p := range []uint8{0, 3, 9, 3, 0, 5} {
		must(t, ch.Publish("", "q", false, false, amqp.Publishing{Priority: p, Body: fmt.Append(nil, i)}))
	}
	wantBodies(t, ch, "q", "2", "5", "1", "3", "0", "4")
}

// TestTransactions: what is published and acked counts from the commit on, and not at
// all after a rollback.
func TestTransactions(t *testing.T) {
	s := start(t)
	ch, other := dial(t, s), dial(t, s)
	declare(t, ch, "q", nil)
	put(t, other, "q", "there")
	must(t, ch.Tx())
	must(t, ch.Publish("", "q", false, false, amqp.Publishing{Body: []byte("rolled back")}))
	must(t, ch.TxRollback())
	must(t, ch.Publish("", "q", false, false, amqp.Publishing{Body: []byte("committed")}))
	answered(t, ch)
	wantMessages(t, other, "q", 1)
	must(t, ch.TxCommit())
	d, _, err := ch.Get("q", false)
	must(t, err)
	must(t, d.Ack(false))
	must(t, ch.TxRollback())
	must(t, d.Nack(false, true))
	must(t, ch.TxCommit())
	wantBodies(t, other, "q", "there", "committed")
	wantCode(t, ch.Confirm(false), 406)
	ch = dial(t, s)
	must(t, ch.Confirm(false))
	wantCode(t, ch.Tx(), 406)
}

// TestHeartbeats: we send them, and a client that sends none is closed.
func TestHeartbeats(t *testing.T) {
	s := start(t)
	c := rawDial(t, s)
	c.greet(`{}`, "\x00guest\x00guest")
	c.want("connection.tune")
	c.send("0 connection.tune-ok channel-max=1 frame-max=4096 heartbeat=1", `0 connection.open virtual-host="/"`)
	c.want("connection.open-ok")
	began := time.Now()
	c.SetReadDeadline(began.Add(patience))
	buf := make([]byte, 64)
	total := ""
	for {
		n, err := c.Read(buf)
		total += string(buf[:n])
		if err != nil {
			break
		}
	}
	if took := time.Since(began); took < time.Second || took > 4*time.Second || len(total) < 2*8 || strings.Trim(total, "\x08\x00\xce") != "" {
		t.Errorf("after %s the socket was closed, and %q was sent", took, total)
	}
}

// TestHandshakeTooSlow: a client that never finishes its handshake is closed, however
// it says a little now and then.
func TestHandshakeTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c := newConn(theirs, &Server{})
		var running sync.WaitGroup
		began, ended := time.Now(), time.Time{}
		running.Go(func() {
			c.run()
			ended = time.Now()
		})
		for _, octet := range []byte("AMQP\x00\x00\x09") {
			if _, err := ours.Write([]byte{octet}); err != nil {
				break
			}
			time.Sleep(3 * time.Second)
		}
		running.Wait()
		if took := ended.Sub(began); took != handshakeTimeout {
			t.Errorf("it was closed after %s, want %s", took, handshakeTimeout)
		}
	})
}

// TestLargeBodies: they are cut to the frames that the client takes.
func TestLargeBodies(t *testing.T) {
	s := start(t)
	c := rawDial(t, s)
	c.greet(`{}`, "\x00guest\x00guest")
	c.want("connection.tune")
	c.send("0 connection.tune-ok channel-max=1 frame-max=4096", `0 connection.open virtual-host="/"`, "1 channel.open", `1 queue.declare queue="q"`,
		`1 basic.consume queue="q" consumer-tag="c" no-ack`)
	for _, want := range []string{"connection.open-ok", "channel.open-ok", "queue.declare-ok", "basic.consume-ok"} {
		c.want(want)
	}
	must(t, dial(t, s).Publish("", "q", false, false, amqp.Publishing{Body: make([]byte, 10_000)}))
	c.want("basic.deliver")
	c.want("header body-size=10000")
	for _, want := range []int{4088, 4088, 1824} {
		if got := len(c.want("body").Payload()); got != want {
			t.Errorf("a body of %d octets, want %d", got, want)
		}
	}
}

// TestChannelLimit: so many as were agreed.
func TestChannelLimit(t *testing.T) {
	c := rawDial(t, start(t))
	c.greet(`{}`, "\x00guest\x00guest")
	c.want("connection.tune")
	c.send("0 connection.tune-ok channel-max=1 frame-max=4096", `0 connection.open virtual-host="/"`, "1 channel.open", "2 channel.open")
	c.want("connection.open-ok")
	c.want("channel.open-ok")
	c.want("connection.close reply-code=530")
	c.send("0 connection.close-ok")
	if f := c.next(); f != nil {
		t.Errorf("got %s, want the socket closed", f)
	}
}
