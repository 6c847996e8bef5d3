package test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// sessionMetrics are the samples of /metrics by their whole names.
func sessionMetrics(t *testing.T, p *daemon.Proxy) map[string]float64 {
	t.Helper()
	status, body := p.Get("/metrics")
	if status != 200 {
		t.Fatalf("/metrics says %d", status)
	}
	out := map[string]float64{}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		sessionMust(t, err)
		out[line[:at]] = value
	}
	return out
}

// TestSessionMetricsLint: the metrics are as Prometheus wants metrics to be.
func TestSessionMetricsLint(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"logs": "{}"})
	l.declare(t, "logs.a")
	l.publish(t, streamKeyed("logs.a", "k")...)
	_, body := l.proxy.Get("/metrics")
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	sessionMust(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	ours := 0
	for name := range sessionMetrics(t, l.proxy) {
		if strings.HasPrefix(name, "amqproxy_") {
			ours++
		} else if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "promhttp_") {
			t.Errorf("%s has none of the known prefixes", name)
		}
	}
	if ours < 15 {
		t.Errorf("%d samples of amqproxy's own, want more", ours)
	}
}

// TestSessionMetrics: after known traffic each counter has moved by what was done,
// on the stream and beside it.
func TestSessionMetrics(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"logs": "{}"}, "limits: {max-connections: 3}")
	l.declare(t, "logs.a") // on a connection with a channel, which stay
	before := sessionMetrics(t, l.proxy)

	conn := l.dial(t)
	ch := streamOpen(t, conn)
	streamConfirm(t, ch)
	sessionStreamTraffic(t, ch, "logs.a")
	sessionQueueTraffic(t, ch)
	for range 2 {
		_, err := streamOpen(t, conn).QueuePurge("logs.a", false)
		streamWantError(t, err, amqp.PreconditionFailed, "queue.purge")
	}
	streamOpen(t, conn)
	l.dial(t)
	c := rawDial(t, l.proxy.Addr()) // one too many
	for _, f := range c.rest(5 * time.Second) {
		t.Errorf("over max-connections: got %s, want the socket closed", f)
	}

	stream := func(name string) string {
		return fmt.Sprintf("amqproxy_stream_%s{stream=\"logs.a\",vhost=%q}", name, l.vhost)
	}
	moved := map[string]float64{
		"amqproxy_connections_opened_total":           3, // with the one too many
		"amqproxy_connections_refused_total":          1,
		"amqproxy_messages_published_total":           5 + 6,
		"amqproxy_messages_delivered_total":           5 + 3,
		"amqproxy_messages_confirmed_total":           5 + 5,
		"amqproxy_messages_nacked_total":              1,
		"amqproxy_messages_unroutable_returned_total": 2,
		"amqproxy_channel_errors_total":               2,
		stream("messages_published_total"):            5,
		stream("messages_delivered_total"):            5,
		stream("messages_unroutable_returned_total"):  0,
		stream("methods_refused_total"):               2,
	}
	now := map[string]float64{
		"amqproxy_connections": 3,
		"amqproxy_channels":    3, // one of the declare and two of conn
		stream("shards"):       1,
	}
	daemon.Eventually(t, 5*time.Second, func() (err error) {
		after := sessionMetrics(t, l.proxy)
		for name, want := range moved {
			if got := after[name] - before[name]; got != want {
				err = errors.Join(err, fmt.Errorf("%s moved by %v, want %v", name, got, want))
			}
		}
		for name, want := range now {
			if after[name] != want {
				err = errors.Join(err, fmt.Errorf("%s is %v, want %v", name, after[name], want))
			}
		}
		for _, name := range []string{"amqproxy_client_received_bytes_total", "amqproxy_client_sent_bytes_total"} {
			if after[name]-before[name] < 500 {
				err = errors.Join(err, fmt.Errorf("%s moved by %v, want more", name, after[name]-before[name]))
			}
		}
		return err
	})
}

// sessionStreamTraffic publishes 5 messages to a stream, gets 2 and consumes 3.
func sessionStreamTraffic(t *testing.T, ch *amqp.Channel, v string) {
	t.Helper()
	streamPublish(t, ch, streamKeyed(v, "a", "b", "c", "d", "e")...)
	for i := range 2 {
		if _, ok, err := ch.Get(v, true); err != nil || !ok {
			t.Fatalf("get %d: %v, %v", i, ok, err)
		}
	}
	deliveries, err := ch.Consume(v, "", true, false, false, false, nil)
	sessionMust(t, err)
	for range 3 {
		streamNext(t, deliveries, "a delivery")
	}
}

// sessionQueueTraffic publishes 6 messages past any stream: 3 are taken by a
// queue, from which they are got, 1 is nacked, and 2 come back and are acked.
func sessionQueueTraffic(t *testing.T, ch *amqp.Channel) {
	t.Helper()
	queue := sessionDeclare(t, ch, "", amqp.Table{"x-max-length": 3, "x-overflow": "reject-publish"})
	streamPublish(t, ch, streamKeyed("", queue, queue, queue)...)
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 3))
	returns := ch.NotifyReturn(make(chan amqp.Return, 2))
	sessionPut(t, ch, "", queue, "over the limit")
	if c := streamNext(t, confirms, "a nack"); c.Ack {
		t.Errorf("got %+v, want a nack", c)
	}
	for range 2 {
		sessionMust(t, ch.PublishWithContext(t.Context(), "amq.direct", "nowhere", true, false, amqp.Publishing{}))
		streamNext(t, returns, "a return")
		streamNext(t, confirms, "an ack")
	}
	if got := len(streamDrain(t, ch, queue)); got != 3 {
		t.Errorf("the queue held %d messages, want 3", got)
	}
}
