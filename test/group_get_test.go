package test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestManyGroupGet: basic.get looks at all shards of all nodes, says get-empty only when all
// are empty, and what was got is settled wherever it was.
func TestManyGroupGet(t *testing.T) { bothBeside(t, testManyGroupGet) }

func testManyGroupGet(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for n, mode := range groupModes {
		const keys = 60
		stream := g.make(mode, "get")
		g.publish(0, stream, keys, "x")
		first := g.channel(n)
		got := map[string]amqp.Delivery{}
		for tag := range uint64(keys) {
			d, ok, err := first.Get(stream, false)
			sessionMust(t, err)
			if !ok {
				t.Fatalf("%s: get-empty after %d of %d messages", mode, tag, keys)
			}
			if d.DeliveryTag != tag+1 || d.Redelivered || d.Exchange != stream {
				t.Errorf("%s: get %d gave tag %d, exchange %q, redelivered %v", mode, tag+1, d.DeliveryTag, d.Exchange, d.Redelivered)
			}
			got[d.RoutingKey] = d
		}
		if _, ok, err := first.Get(stream, false); err != nil || ok || len(got) != keys {
			t.Errorf("%s: %d different keys were got, then %v, %v; want %d and nothing", mode, len(got), ok, err, keys)
		}
		of := map[string]bool{}
		for k, queue := range predict(stream, keys, g.all(stream)) {
			if d := got[k]; len(of) < 4 && !of[queue] { // one message of each of four shards
				of[queue] = true
				sessionMust(t, d.Ack(false))
			}
		}
		sessionMust(t, first.Close())
		second := g.channel(n + 1)
		for range keys - len(of) {
			d, ok, err := second.Get(stream, true)
			sessionMust(t, err)
			if !ok || !d.Redelivered {
				t.Fatalf("%s: got %q, %v, redelivered %v, want all that was not acked again", mode, d.RoutingKey, ok, d.Redelivered)
			}
		}
		if d, ok, err := second.Get(stream, true); ok || err != nil {
			t.Errorf("%s: got %q, %v after the last", mode, d.RoutingKey, err)
		}
		g.ready(stream, 0)
	}
}
