package fakebroker

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestRoutes: which bindings of which exchanges take a message.
func TestRoutes(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	must(t, ch.ExchangeDeclare("through", "fanout", false, false, true, false, nil))
	must(t, ch.ExchangeBind("through", "to.through", "amq.direct", false, nil))
	must(t, ch.ExchangeDeclare("spare", "fanout", false, false, false, false, nil))
	must(t, ch.ExchangeDeclare("with-spare", "direct", false, false, false, false, amqp.Table{"alternate-exchange": "spare"}))
	bindings := []struct {
		queue, exchange, key string
		args                 amqp.Table
	}{
		{"direct", "amq.direct", "k", nil},
		{"fanout", "amq.fanout", "whatever", nil},
		{"star", "amq.topic", "a.*.c", nil},
		{"hash", "amq.topic", "a.#", nil},
		{"hash-hash", "amq.topic", "#.x.#", nil},
		{"everything", "amq.topic", "#", nil},
		{"empty", "amq.topic", "", nil},
		{"all", "amq.headers", "", amqp.Table{"a": int32(1), "b": "two"}},
		{"any", "amq.match", "", amqp.Table{"x-match": "any", "a": int64(1), "b": "two"}},
		{"with-x", "amq.match", "", amqp.Table{"x-match": "all-with-x", "x-a": "1"}},
		{"through", "through", "", nil},
		{"spare", "spare", "", nil},
		{"with-spare", "with-spare", "k", nil},
	}
	for _, b := range bindings {
		declare(t, ch, b.queue, nil)
		must(t, ch.QueueBind(b.queue, b.key, b.exchange, false, b.args))
	}
	for _, c := range []struct {
		exchange, key string
		headers       amqp.Table
		want          []string
	}{
		{"", "direct", nil, []string{"direct"}},
		{"amq.direct", "k", nil, []string{"direct"}},
		{"amq.direct", "other", nil, nil},
		{"amq.direct", "to.through", nil, []string{"through"}},
		{"amq.direct", "k", amqp.Table{"CC": []any{"to.through", "k"}}, []string{"direct", "through"}},
		{"amq.direct", "other", amqp.Table{"BCC": []any{"k"}}, []string{"direct"}},
		{"amq.fanout", "k", nil, []string{"fanout"}},
		{"amq.topic", "a.b.c", nil, []string{"star", "hash", "everything"}},
		{"amq.topic", "a", nil, []string{"hash", "everything"}},
		{"amq.topic", "a.b.b.c", nil, []string{"hash", "everything"}},
		{"amq.topic", "1.2.x.3", nil, []string{"hash-hash", "everything"}},
		{"amq.topic", "x", nil, []string{"hash-hash", "everything"}},
		{"amq.topic", "", nil, []string{"everything", "empty"}},
		{"amq.headers", "", amqp.Table{"a": int32(1), "b": "two", "c": "3"}, []string{"all"}},
		{"amq.headers", "", amqp.Table{"a": int32(1)}, nil},
		{"amq.match", "", amqp.Table{"a": int32(1), "b": "three"}, []string{"any"}},
		{"amq.match", "", amqp.Table{"x-a": "1"}, []string{"with-x"}},
		{"with-spare", "k", nil, []string{"with-spare"}},
		{"with-spare", "other", nil, []string{"spare"}},
	} {
		t.Run(fmt.Sprintf("%s %s %v", c.exchange, c.key, c.headers), func(t *testing.T) {
			must(t, ch.Publish(c.exchange, c.key, false, false, amqp.Publishing{Headers: c.headers}))
			var got []string
			for _, b := range bindings {
				d, ok, err := ch.Get(b.queue, true)
				must(t, err)
				if !ok {
					continue
				}
				got = append(got, b.queue)
				if _, shown := d.Headers["BCC"]; shown || d.RoutingKey != c.key || d.Exchange != c.exchange {
					t.Errorf("got exchange %q, key %q, headers %v", d.Exchange, d.RoutingKey, d.Headers)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("went to %v, want %v", got, c.want)
			}
		})
	}
}

// TestConsistentHash: a key goes to one queue and stays there, and queues get about
// as much as they weigh.
func TestConsistentHash(t *testing.T) {
	ch := dial(t, start(t))
	must(t, ch.ExchangeDeclare("ring", "x-consistent-hash", true, false, false, false, nil))
	for queue, weight := range map[string]string{"light": "100", "heavy": "300"} {
		declare(t, ch, queue, nil)
		must(t, ch.QueueBind(queue, weight, "ring", false, nil))
	}
	const keys = 4000
	for range 2 {
		for i := range keys {
			must(t, ch.Publish("ring", fmt.Sprint("key-", i), false, false, amqp.Publishing{}))
		}
	}
	light, err := ch.QueueDeclarePassive("light", true, false, false, false, nil)
	must(t, err)
	heavy, err := ch.QueueDeclarePassive("heavy", true, false, false, false, nil)
	must(t, err)
	if light.Messages+heavy.Messages != 2*keys || light.Messages%2 != 0 || light.Messages < keys/4 || light.Messages > keys*3/4 {
		t.Errorf("%d light and %d heavy, want about 1 in 4 of %d", light.Messages, heavy.Messages, 2*keys)
	}
	err = ch.QueueBind("light", "heavy", "ring", false, nil)
	wantCode(t, err, 406)
}

// TestExchangeErrors: what is refused, and how.
func TestExchangeErrors(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	must(t, ch.ExchangeDeclare("x", "direct", true, false, false, false, nil))
	must(t, ch.ExchangeDeclare("closed", "direct", true, false, true, false, nil))
	declare(t, ch, "q", nil)
	must(t, ch.QueueBind("q", "k", "x", false, nil))
	for name, c := range map[string]struct {
		code int
		do   func(*amqp.Channel) error
	}{
		"other type": {406, func(ch *amqp.Channel) error { return ch.ExchangeDeclare("x", "fanout", true, false, false, false, nil) }},
		"not durable": {406, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("x", "direct", false, false, false, false, nil)
		}},
		"reserved": {403, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("amq.x", "direct", false, false, false, false, nil)
		}},
		"default": {403, func(ch *amqp.Channel) error { return ch.ExchangeDeclare("", "direct", true, false, false, false, nil) }},
		"passive": {404, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive("y", "direct", true, false, false, false, nil)
		}},
		"unknown type": {503, func(ch *amqp.Channel) error { return ch.ExchangeDeclare("y", "odd", true, false, false, false, nil) }},
		"in use":       {406, func(ch *amqp.Channel) error { return ch.ExchangeDelete("x", true, false) }},
		"delete amq":   {403, func(ch *amqp.Channel) error { return ch.ExchangeDelete("amq.fanout", false, false) }},
		"bind to none": {404, func(ch *amqp.Channel) error { return ch.QueueBind("q", "k", "none", false, nil) }},
		"bind none":    {404, func(ch *amqp.Channel) error { return ch.QueueBind("none", "k", "x", false, nil) }},
		"bind default": {403, func(ch *amqp.Channel) error { return ch.QueueBind("q", "k", "", false, nil) }},
		"headers' match": {406, func(ch *amqp.Channel) error {
			return ch.QueueBind("q", "k", "amq.headers", false, amqp.Table{"x-match": "odd"})
		}},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, c.do(dial(t, s)), c.code) })
	}
	for name, code := range map[string]int{"closed": 403, "none": 404} {
		ch := dial(t, s)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		must(t, ch.Publish(name, "k", false, false, amqp.Publishing{}))
		wantCode(t, next(t, closed), code)
	}
}

// TestAutoDeleteExchange: it goes with its last binding.
func TestAutoDeleteExchange(t *testing.T) {
	ch := dial(t, start(t))
	must(t, ch.ExchangeDeclare("x", "direct", false, true, false, false, nil))
	must(t, ch.ExchangeDeclare("behind", "direct", false, true, false, false, nil))
	declare(t, ch, "q", nil)
	must(t, ch.ExchangeBind("behind", "k", "x", false, nil))
	must(t, ch.QueueBind("q", "k", "behind", false, nil))
	must(t, ch.ExchangeDeclarePassive("x", "direct", false, true, false, false, nil))
	_, err := ch.QueueDelete("q", false, false, false)
	must(t, err)
	wantCode(t, ch.ExchangeDeclarePassive("x", "direct", false, true, false, false, nil), 404)
}
