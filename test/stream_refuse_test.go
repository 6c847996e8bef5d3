package test

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
)

// streamRefusals are the methods that a virtual queue does not have.
var streamRefusals = []struct {
	name, line string // in which %[1]q is the stream
	class, id  uint16
}{
	{"queue.declare", `1 queue.declare queue=%[1]q durable`, 50, 10},
	{"queue.bind", `1 queue.bind queue=%[1]q exchange="amq.direct" routing-key="k"`, 50, 20},
	{"queue.bind", `1 queue.bind queue=%[1]q exchange=%[1]q routing-key="k"`, 50, 20},
	{"queue.bind", `1 queue.bind queue="ordinary" exchange=%[1]q routing-key="k"`, 50, 20},
	{"queue.unbind", `1 queue.unbind queue=%[1]q exchange="amq.direct" routing-key="k"`, 50, 50},
	{"queue.purge", `1 queue.purge queue=%[1]q`, 50, 30},
	{"queue.delete", `1 queue.delete queue=%[1]q`, 50, 40},
	{"queue.delete", `1 queue.delete queue=%[1]q if-unused if-empty`, 50, 40},
	{"exchange.bind", `1 exchange.bind destination=%[1]q source="amq.direct" routing-key="k"`, 40, 30},
	{"exchange.bind", `1 exchange.bind destination="amq.direct" source=%[1]q routing-key="k"`, 40, 30},
}

// TestStreamRefusals: a channel error that names the method and the stream, for
// nowait too; what is asked on other channels in the same packet is answered.
func TestStreamRefusals(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"refuse": "{shards-per-node: 2}"})
	const v = "refuse.a"
	l.declare(t, v)
	l.publish(t, streamKeyed(v, streamKeys("k", 20)...)...)
	if _, err := l.direct(t).QueueDeclare("ordinary", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range streamRefusals {
		for _, nowait := range []string{"", " nowait"} {
			if nowait != "" && r.name == "queue.unbind" {
				continue // has no such flag
			}
			line := fmt.Sprintf(r.line, v) + nowait
			t.Run(line, func(t *testing.T) {
				w := l.wire(t, 131072)
				w.open(2)
				w.send(line, "1 basic.qos prefetch-count=1", "2 basic.qos prefetch-count=1")
				streamWantRefusal(t, w, r.name, v, r.class, r.id)
				w.send("1 basic.qos prefetch-count=1", "1 channel.close-ok", "1 channel.open", "1 basic.qos prefetch-count=1")
				w.want("1 channel.open-ok")
				w.want("1 basic.qos-ok")
			})
		}
	}
	messages, _ := l.shards(t, v, 2)
	if messages[0]+messages[1] != 20 {
		t.Errorf("after all refusals the shards hold %v, want 20 messages", messages)
	}
	if n, err := l.broker.Eval(t.Context(), fmt.Sprintf("length(rabbit_binding:list_for_source(rabbit_misc:r(<<%q>>, exchange, <<%q>>)))", l.vhost, v)); n != "2" || err != nil {
		t.Errorf("after all refusals the exchange has %s bindings (%v), want those of its 2 shards", n, err)
	}
}

// streamWantRefusal wants the 406 on channel 1 and a qos-ok on channel 2, in
// whatever order.
func streamWantRefusal(t *testing.T, w *streamWire, method, v string, class, id uint16) {
	t.Helper()
	for range 2 {
		f := w.next()
		if f.Channel() == 2 {
			if f.Method() != frame.BasicQosOk {
				t.Errorf("channel 2 got %s, want basic.qos-ok", f)
			}
			continue
		}
		if f.Method() != frame.ChannelClose {
			t.Fatalf("channel 1 got %s, want channel.close", f)
		}
		a := f.Args()
		code, text := a.Short(), string(a.ShortStr())
		streamWantError(t, &amqp.Error{Code: int(code), Reason: text}, amqp.PreconditionFailed, "PRECONDITION_FAILED", method, v)
		if gotClass, gotID := a.Short(), a.Short(); gotClass != class || gotID != id {
			t.Errorf("channel.close blames method %d.%d, want %d.%d", gotClass, gotID, class, id)
		}
	}
}

// TestStreamRefusalsThroughALibrary: the same with amqp091-go, whose other channel
// lives on.
func TestStreamRefusalsThroughALibrary(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"refuse": "{}"})
	const v = "refuse.a"
	l.declare(t, v)
	conn := l.dial(t)
	other := streamOpen(t, conn)
	for name, do := range map[string]func(*amqp.Channel) error{
		"queue.declare": func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(v, true, false, false, false, nil)
			return err
		},
		"queue.bind":    func(ch *amqp.Channel) error { return ch.QueueBind(v, "k", "amq.topic", false, nil) },
		"queue.unbind":  func(ch *amqp.Channel) error { return ch.QueueUnbind(v, "k", "amq.topic", nil) },
		"queue.purge":   func(ch *amqp.Channel) error { _, err := ch.QueuePurge(v, false); return err },
		"queue.delete":  func(ch *amqp.Channel) error { _, err := ch.QueueDelete(v, false, false, false); return err },
		"exchange.bind": func(ch *amqp.Channel) error { return ch.ExchangeBind(v, "k", "amq.topic", false, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			streamWantError(t, do(streamOpen(t, conn)), amqp.PreconditionFailed, name, v)
			streamLives(t, other)
		})
	}
}

// TestStreamRefusalAfterPublishes: RabbitMQ drops the confirms of a channel that
// closes, so ours closes only when all of them are there.
func TestStreamRefusalAfterPublishes(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"order": "{shards-per-node: 3}"})
	const v, count = "order.a", 2000
	l.declare(t, v)
	for round := range 5 {
		w := l.wire(t, 131072)
		w.send("1 confirm.select")
		w.wantMethod(frame.ConfirmSelectOk)
		var lines []string
		for i := range count {
			lines = append(lines, streamPublishLines(v, fmt.Sprint("k", i), fmt.Sprint(round, " ", i), "delivery-mode=2")...)
		}
		w.send(append(lines, fmt.Sprintf("1 queue.bind queue=%q exchange=\"amq.direct\"", v))...)
		w.wantAcks(1, count)
		f := w.want("1 channel.close reply-code=406")
		a := f.Args()
		a.Short()
		streamWantError(t, &amqp.Error{Code: 406, Reason: string(a.ShortStr())}, 406, "queue.bind", v)
		w.send("1 channel.close-ok", "1 channel.open")
		w.want("1 channel.open-ok")
		if where := l.drainShards(t, v, 3); len(where) != count {
			t.Errorf("round %d: the shards hold %d messages, want %d", round, len(where), count)
		}
	}
}

// TestStreamPassiveDeclare: the virtual queue under its own name, with the sums.
func TestStreamPassiveDeclare(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"sum": "{shards-per-node: 3}"})
	const v = "sum.a"
	l.declare(t, v)
	l.fillShards(t, v, 5, 0, 7)
	check := func(messages, consumers int) {
		t.Helper()
		ch := l.channel(t)
		for _, durable := range []bool{true, false} { // a passive declare compares nothing
			q, err := ch.QueueDeclarePassive(v, durable, false, false, false, nil)
			if want := (amqp.Queue{Name: v, Messages: messages, Consumers: consumers}); err != nil || q != want {
				t.Errorf("passive declare: %+v, %v; want %+v", q, err, want)
			}
		}
	}
	check(12, 0)
	ch := l.channel(t)
	streamMust(t, ch.Qos(1, 0, false))
	for range 2 {
		// Only the shards that hold something give a message that is no longer ready.
		streamConsume(t, ch, v, "")
	}
	streamConsume(t, ch, v, "")
	l.wantConsumers(t, v, 1, 1, 1)
	l.fillShards(t, v, 0, 3, 0)
	check(12+3-3, 3)
}
