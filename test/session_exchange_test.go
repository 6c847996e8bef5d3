package test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// sessionPlain is a proxy without streams and a vhost on the shared broker.
type sessionPlain struct {
	url string
}

// startPlain has a policy all the same, so that every name is looked at.
func startPlain(t *testing.T) sessionPlain {
	t.Helper()
	vhost := rabbit.VHost(t)
	p := sessionProxy(t, rabbit, `policies: [{name: others, pattern: '^stream\.', vhost: "*"}]`)
	return sessionPlain{p.URL("guest", "guest", vhost)}
}

func (l sessionPlain) channel(t *testing.T) *amqp.Channel {
	t.Helper()
	return streamOpen(t, streamDial(t, l.url))
}

// sessionPut publishes one message; all its confirms are waited for elsewhere.
func sessionPut(t *testing.T, ch *amqp.Channel, exchange, key, body string) {
	t.Helper()
	sessionPutMessage(t, ch, exchange, key, amqp.Publishing{Body: []byte(body)})
}

func sessionPutMessage(t *testing.T, ch *amqp.Channel, exchange, key string, m amqp.Publishing) {
	t.Helper()
	sessionMust(t, ch.PublishWithContext(context.WithoutCancel(t.Context()), exchange, key, false, false, m))
}

// sessionDeclare declares a queue that goes with its connection.
func sessionDeclare(t *testing.T, ch *amqp.Channel, queue string, args amqp.Table) string {
	t.Helper()
	q, err := ch.QueueDeclare(queue, false, false, true, false, args)
	sessionMust(t, err)
	return q.Name
}

// sessionGot wants these bodies in a queue, in this order, and removes them. What
// was published on the same channel before has been routed by then.
func sessionGot(t *testing.T, ch *amqp.Channel, queue string, want ...string) {
	t.Helper()
	var got []string
	for _, d := range streamDrain(t, ch, queue) {
		got = append(got, string(d.Body))
	}
	if !slices.Equal(got, want) {
		t.Errorf("queue %s holds %q, want %q", queue, got, want)
	}
}

// TestSessionExchangeTypes: each type of exchange routes as the broker does.
func TestSessionExchangeTypes(t *testing.T) {
	t.Parallel()
	ch := startPlain(t).channel(t)
	streamConfirm(t, ch)
	for _, tc := range []struct {
		kind       string
		binding    string
		args       amqp.Table
		key        string
		headers    amqp.Table
		key2       string // does not match
		unboundSee bool   // whether the other message comes as well
	}{
		{kind: "direct", binding: "one", key: "one", key2: "two"},
		{kind: "fanout", binding: "", key: "one", key2: "two", unboundSee: true},
		{kind: "topic", binding: "a.*.#", key: "a.b.c.d", key2: "b.a"},
		{kind: "headers", args: amqp.Table{"x-match": "all", "n": int32(5)}, headers: amqp.Table{"n": int32(5)}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			queue, exchange := sessionDeclare(t, ch, "", nil), "an-"+tc.kind
			sessionMust(t, ch.ExchangeDeclare(exchange, tc.kind, false, false, false, false, nil))
			sessionMust(t, ch.ExchangeDeclarePassive(exchange, tc.kind, false, false, false, false, nil))
			sessionMust(t, ch.QueueBind(queue, tc.binding, exchange, false, tc.args))
			streamPublish(t, ch,
				streamMessage{exchange, tc.key, amqp.Publishing{Headers: tc.headers, Body: []byte("matches")}},
				streamMessage{exchange, tc.key2, amqp.Publishing{Body: []byte("other")}})
			want := []string{"matches"}
			if tc.unboundSee {
				want = append(want, "other")
			}
			sessionGot(t, ch, queue, want...)
			sessionMust(t, ch.QueueUnbind(queue, tc.binding, exchange, tc.args))
			streamPublish(t, ch, streamMessage{exchange, tc.key, amqp.Publishing{Headers: tc.headers}})
			sessionGot(t, ch, queue)
			sessionMust(t, ch.ExchangeDelete(exchange, false, false))
		})
	}
}

// TestSessionExchangeGraphs: alternate exchanges, bindings between exchanges, and
// the plain default exchange.
func TestSessionExchangeGraphs(t *testing.T) {
	t.Parallel()
	ch := startPlain(t).channel(t)
	streamConfirm(t, ch)
	sessionMust(t, ch.ExchangeDeclare("unrouted", "fanout", false, false, false, false, nil))
	sessionMust(t, ch.ExchangeDeclare("front", "direct", false, false, false, false, amqp.Table{"alternate-exchange": "unrouted"}))
	sessionMust(t, ch.ExchangeDeclare("inner", "topic", false, false, true, false, nil)) // internal
	sessionMust(t, ch.ExchangeBind("inner", "to.inner", "front", false, nil))
	for queue, exchange := range map[string]string{"other": "unrouted", "through": "inner"} {
		sessionDeclare(t, ch, queue, nil)
		sessionMust(t, ch.QueueBind(queue, "#", exchange, false, nil))
	}
	streamPublish(t, ch, streamKeyed("front", "to.inner", "nowhere")...)
	sessionGot(t, ch, "through", "to.inner")
	sessionGot(t, ch, "other", "nowhere")
	sessionMust(t, ch.ExchangeUnbind("inner", "to.inner", "front", false, nil))
	streamPublish(t, ch, streamKeyed("front", "to.inner")...)
	sessionGot(t, ch, "through")
	sessionGot(t, ch, "other", "to.inner")
	streamPublish(t, ch, streamKeyed("", "through")...)
	sessionGot(t, ch, "through", "through")
}

// TestSessionReturns: a message that nobody takes comes back whole when it was
// mandatory, before its ack, and not otherwise.
func TestSessionReturns(t *testing.T) {
	t.Parallel()
	ch := startPlain(t).channel(t)
	streamConfirm(t, ch)
	returns, acks := ch.NotifyReturn(make(chan amqp.Return, 9)), ch.NotifyPublish(make(chan amqp.Confirmation, 9))
	sessionPut(t, ch, "amq.direct", "nowhere", "dropped")
	message := amqp.Publishing{Headers: amqp.Table{"a": "b"}, MessageId: "m1", Body: []byte("comes back")}
	sessionMust(t, ch.PublishWithContext(t.Context(), "amq.direct", "nowhere", true, false, message))
	for tag := range uint64(2) {
		if c := streamNext(t, acks, "an ack"); !c.Ack || c.DeliveryTag != tag+1 {
			t.Errorf("got %+v, want an ack of %d", c, tag+1)
		}
	}
	if len(returns) != 1 {
		t.Fatalf("%d returns came before the acks, want 1", len(returns))
	}
	r := <-returns
	got := fmt.Sprintf("%d %s %s %s %s %v %s", r.ReplyCode, r.ReplyText, r.Exchange, r.RoutingKey, r.MessageId, r.Headers["a"], r.Body)
	if want := "312 NO_ROUTE amq.direct nowhere m1 b comes back"; got != want {
		t.Errorf("got return %q, want %q", got, want)
	}
}

// TestSessionChannelErrors: the broker's error closes one channel, in its words,
// and the others live on.
func TestSessionChannelErrors(t *testing.T) {
	t.Parallel()
	l := startPlain(t)
	conn := streamDial(t, l.url)
	other := streamOpen(t, conn)
	sessionDeclare(t, other, "there", nil)
	for _, tc := range []struct {
		name  string
		do    func(ch *amqp.Channel) error
		code  int
		says  string
		later bool // the error comes after the method
	}{
		{"missing queue", func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive("missing", false, false, false, false, nil)
			return err
		}, 404, "NOT_FOUND - no queue 'missing' in vhost '", false},
		{"consume from a missing queue", func(ch *amqp.Channel) error {
			_, err := ch.Consume("missing", "", true, false, false, false, nil)
			return err
		}, 404, "no queue 'missing'", false},
		{"other arguments", func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("there", false, false, true, false, amqp.Table{"x-max-length": 5})
			return err
		}, 406, "inequivalent arg 'x-max-length' for queue 'there'", false},
		{"reserved name", func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("amq.mine", "fanout", false, false, false, false, nil)
		}, 403, "ACCESS_REFUSED", false},
		{"delete of a queue in use", func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete("there", false, true, false)
			return err
		}, 406, "not empty", false},
		{"publish to a missing exchange", func(ch *amqp.Channel) error {
			return ch.PublishWithContext(context.Background(), "missing", "k", false, false, amqp.Publishing{})
		}, 404, "no exchange 'missing'", true},
		{"ack of an unknown tag", func(ch *amqp.Channel) error { return ch.Ack(77, false) }, 406, "unknown delivery tag 77", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sessionPut(t, other, "", "there", "x")
			ch := streamOpen(t, conn)
			closed := ch.NotifyClose(make(chan *amqp.Error, 1))
			err := tc.do(ch)
			if !tc.later {
				streamWantError(t, err, tc.code, tc.says)
			}
			streamWantClosed(t, closed, tc.code, tc.says)
			streamLives(t, other)
		})
	}
}
