package fakebroker

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestQueueErrors: what is refused, and how.
func TestQueueErrors(t *testing.T) {
	s := start(t)
	owner := dial(t, s)
	declare(t, owner, "q", amqp.Table{"x-max-length": int32(10)})
	_, err := owner.QueueDeclare("mine", false, false, true, false, nil)
	must(t, err)
	put(t, owner, "q", "one")
	_, err = owner.Consume("mine", "", false, true, false, false, nil)
	must(t, err)
	declareAs := func(name string, durable bool, args amqp.Table) func(*amqp.Channel) error {
		return func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, durable, false, false, false, args)
			return err
		}
	}
	for name, c := range map[string]struct {
		code int
		do   func(*amqp.Channel) error
	}{
		"not durable": {406, declareAs("q", false, amqp.Table{"x-max-length": int32(10)})},
		"other args":  {406, declareAs("q", true, amqp.Table{"x-max-length": int32(11)})},
		"no args":     {406, declareAs("q", true, nil)},
		"bad arg":     {406, declareAs("new", true, amqp.Table{"x-message-ttl": "10"})},
		"reserved":    {403, declareAs("amq.q", true, nil)},
		"locked":      {405, declareAs("mine", false, nil)},
		"passive": {404, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive("none", true, false, false, false, nil)
			return err
		}},
		"purge":      {404, func(ch *amqp.Channel) error { _, err := ch.QueuePurge("none", false); return err }},
		"not empty":  {406, func(ch *amqp.Channel) error { _, err := ch.QueueDelete("q", false, true, false); return err }},
		"get locked": {405, func(ch *amqp.Channel) error { _, _, err := ch.Get("mine", true); return err }},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, c.do(dial(t, s)), c.code) })
	}
	must(t, declareAs("q", true, amqp.Table{"x-max-length": int64(10)})(owner)) // a number is one in any size
}

// TestQueueEnds: what a queue leaves with.
func TestQueueEnds(t *testing.T) {
	s := start(t)
	conn := connect(t, s)
	ch := open(t, conn)
	mine, err := ch.QueueDeclare("", false, false, true, false, nil)
	must(t, err)
	_, err = ch.QueueDeclare("auto", false, true, false, false, nil)
	must(t, err)
	deliveries, err := ch.Consume("auto", "c", false, false, false, false, nil)
	must(t, err)
	must(t, ch.Cancel("c", false))
	if _, open := <-deliveries; open {
		t.Error("got a delivery, want none")
	}
	other := dial(t, s)
	_, err = other.QueueDeclarePassive("auto", false, true, false, false, nil)
	wantCode(t, err, 404)
	must(t, conn.Close())
	other = dial(t, s)
	_, err = other.QueueDeclarePassive(mine.Name, false, true, false, false, nil)
	wantCode(t, err, 404)
	other = dial(t, s)
	cancelled := other.NotifyCancel(make(chan string, 1))
	declare(t, other, "q", nil)
	_, err = other.Consume("q", "told", false, false, false, false, nil)
	must(t, err)
	put(t, other, "q", "1")
	n, err := other.QueueDelete("q", false, false, false)
	must(t, err)
	if got := next(t, cancelled); got != "told" || n != 0 {
		t.Errorf("cancelled %q, and %d messages were deleted, want the consumer and 0", got, n)
	}
	n, err = other.QueueDelete("never there", false, false, false)
	if n != 0 || err != nil {
		t.Error("deleting no queue:", n, err)
	}
}

// TestOrder: messages keep it, and find their places again.
func TestOrder(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "q", nil)
	var all []string
	for i := range 300 {
		all = append(all, fmt.Sprint(i))
	}
	put(t, ch, "q", all...)
	for i := range 200 {
		d, ok, err := ch.Get("q", false)
		if err != nil || !ok || string(d.Body) != all[i] || d.Redelivered || d.MessageCount != uint32(299-i) {
			t.Fatalf("get %d: %v %v %+v", i, ok, err, d)
		}
	}
	must(t, ch.Nack(50, false, true))
	must(t, ch.Nack(100, true, true))
	must(t, ch.Reject(150, true))
	must(t, ch.Recover(true))
	d, _, err := ch.Get("q", true)
	if err != nil || !d.Redelivered {
		t.Error("not redelivered:", err)
	}
	wantBodies(t, ch, "q", all[1:]...)
}

// TestTags: what is not unacknowledged can't be settled.
func TestTags(t *testing.T) {
	s := start(t)
	for name, do := range map[string]func(*amqp.Channel) error{
		"none":     func(ch *amqp.Channel) error { return ch.Ack(4, false) },
		"0":        func(ch *amqp.Channel) error { return ch.Ack(0, false) },
		"multiple": func(ch *amqp.Channel) error { return ch.Nack(4, true, true) },
		"twice":    func(ch *amqp.Channel) error { ch.Ack(2, true); return ch.Ack(1, false) },
	} {
		t.Run(name, func(t *testing.T) {
			ch := dial(t, s)
			closed := ch.NotifyClose(make(chan *amqp.Error, 1))
			q, err := ch.QueueDeclare("", false, false, true, false, nil)
			must(t, err)
			put(t, ch, q.Name, "1", "2", "3")
			for range 3 {
				_, _, err := ch.Get(q.Name, false)
				must(t, err)
			}
			must(t, do(ch))
			wantCode(t, next(t, closed), 406)
		})
	}
}
