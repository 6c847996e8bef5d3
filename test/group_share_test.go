package test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestManyGroupDrains: one consumer on one proxy reads all shards of all nodes, through one
// channel, with its own tag and one sequence of delivery tags.
func TestManyGroupDrains(t *testing.T) { bothBeside(t, testManyGroupDrains) }

func testManyGroupDrains(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		const keys = 300
		stream := g.make(mode, "drains")
		g.publish(0, stream, keys, "x")
		ch := g.channel(1)
		deliveries := g.consume(ch, stream, "mine", 20)
		got := map[string]bool{}
		for n := range keys {
			d := streamNext(t, deliveries, fmt.Sprintf("delivery %d of %s", n, mode))
			if d.ConsumerTag != "mine" || d.DeliveryTag != uint64(n+1) || d.Exchange != stream || d.Redelivered {
				t.Fatalf("delivery %d has tag %d, consumer %q, exchange %q, redelivered %v", n, d.DeliveryTag, d.ConsumerTag, d.Exchange, d.Redelivered)
			}
			got[d.RoutingKey] = true
			sessionMust(t, d.Ack(false))
		}
		if len(got) != keys {
			t.Errorf("%s: %d different keys came, want %d", mode, len(got), keys)
		}
		owners := g.shared(stream, []int{0, 1, 2}, 6)
		if len(owners) != 6 {
			t.Errorf("%s: the shards are %v, want 6", mode, slices.Collect(maps.Keys(owners)))
		}
		sessionMust(t, ch.Cancel("mine", false))
		sessionMust(t, ch.Close())
		g.ready(stream, 0)
	}
}

// TestManyGroupBodies: messages of many frames come whole, though those of all shards come to
// one channel at once.
func TestManyGroupBodies(t *testing.T) { bothBeside(t, testManyGroupBodies) }

func testManyGroupBodies(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	const keys = 40
	stream := g.make("ordered", "bodies")
	body := func(k int) string { return strings.Repeat(key(k)+" ", 1+k*k*50) } // none to 600 KiB
	ch := g.channel(1)
	deliveries := g.consume(ch, stream, "bodies", 7)
	put := g.channel(2)
	streamConfirm(t, put)
	for k := range keys {
		streamPublish(t, put, streamMessage{stream, key(k), amqp.Publishing{Body: []byte(body(k))}})
	}
	for range keys {
		d := streamNext(t, deliveries, "a delivery")
		var k int
		if _, err := fmt.Sscanf(d.RoutingKey, "key-%d", &k); err != nil || string(d.Body) != body(k) {
			t.Errorf("%s came with %d octets, others than were sent", d.RoutingKey, len(d.Body))
		}
		sessionMust(t, d.Ack(false))
	}
}

// TestManyGroupNoAck: consumers without acks join and leave, and nothing is lost or comes
// twice, or out of order at one of them.
func TestManyGroupNoAck(t *testing.T) { bothBeside(t, testManyGroupNoAck) }

func testManyGroupNoAck(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		f := g.flow(mode, "no-ack", 96)
		f.noAck = true
		one := f.joinAs(0, 0, true)
		f.shared(f.stream, []int{0, 1, 2}, 6)
		f.produce(0, groupPace)
		f.another(2)
		f.joinAs(1, 0, true)
		f.shared(f.stream, []int{0, 1, 2}, 3, 3)
		f.another(2)
		one.leave()
		f.shared(f.stream, []int{0, 1, 2}, 6)
		f.another(2)
		f.end()
		f.verdict(t, false)
	}
}

// TestManyGroupShares: 6 shards and 4 consumers on three proxies are 2, 2, 1 and 1. Of 12,
// an ordered group has 6 that stand by, and has nothing subscribed for them at the brokers;
// a balanced one has two at each shard. All that is published then comes once.
func TestManyGroupShares(t *testing.T) { bothBeside(t, testManyGroupShares) }

func testManyGroupShares(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	flows, readers := map[string]*flow{}, []*reader{}
	for _, mode := range groupModes {
		flows[mode] = g.flow(mode, "shares", 120)
	}
	join := func(from, to int) {
		for i := from; i < to; i++ {
			for _, mode := range groupModes {
				readers = append(readers, flows[mode].join(i%3, 20))
			}
		}
	}
	join(0, 4)
	for _, f := range flows {
		f.shared(f.stream, []int{0, 1, 2}, 2, 2, 1, 1)
		f.produceSome(3)
	}
	join(4, 12)
	one, none := slices.Repeat([]int{1}, 6), slices.Repeat([]int{0}, 6)
	for mode, loads := range map[string][]int{"ordered": append(one[:6:6], none...), "balanced": append(one[:6:6], one...)} {
		f := flows[mode]
		for queue, tags := range f.shared(f.stream, []int{0, 1, 2}, loads...) {
			if want := 1 + loads[6]; len(tags) != want {
				t.Errorf("%s has the consumers %v, want %d", queue, tags, want)
			}
		}
		if mode == "balanced" { // two read a shard, so that there is no order
			f.unordered()
		}
		f.produceSome(3)
	}
	for _, r := range readers {
		r.undisturbed(t)
		r.leave()
	}
	for _, f := range flows {
		g.ready(f.stream, 0)
		g.unread(f.stream)
	}
}

// produceSome publishes some rounds, and judges when they are read.
func (f *flow) produceSome(rounds int) {
	f.t.Helper()
	f.produce(0, 0)
	f.another(rounds)
	f.end()
	f.verdict(f.t, false)
}
