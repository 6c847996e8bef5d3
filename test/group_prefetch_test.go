package test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"amqproxy/test/daemon"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestManyGroupPrefetch: a client has never more that it has not acknowledged than its
// prefetch says, over all six shards together, and all of these come forward; without a
// prefetch it gets everything.
func TestManyGroupPrefetch(t *testing.T) { bothBeside(t, testManyGroupPrefetch) }

func testManyGroupPrefetch(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for n, prefetch := range []int{1, 2, 10, 0} {
		mode := groupModes[n%2]
		stream := g.make(mode, fmt.Sprint("prefetch-", prefetch))
		const keys = 240
		g.publish(0, stream, keys, "x")
		ch := g.channel(n % 3)
		deliveries := g.consume(ch, stream, "slow", prefetch)
		if prefetch == 0 {
			take(t, deliveries, keys)
			continue
		}
		g.slowly(t, prefetch, keys, stream, deliveries)
	}
}

// slowly looks whether as many messages come as a consumer may have and no more, and then
// acks one after the other. It counts what comes at once, so that more than the prefetch
// would be seen at any time. In the first half every shard has to come forward.
func (g *groups) slowly(t *testing.T, prefetch, count int, stream string, deliveries <-chan amqp.Delivery) {
	t.Helper()
	var has atomic.Int64
	came, more := make(chan amqp.Delivery, count), make(chan amqp.Delivery, count)
	go func() { // ends with the channel
		for d := range deliveries {
			if has.Add(1) > int64(prefetch) {
				more <- d
			}
			came <- d
		}
	}()
	daemon.Eventually(t, streamPatience, func() error {
		if n := has.Load(); n != int64(prefetch) {
			return fmt.Errorf("%d messages of %s have come, want %d", n, stream, prefetch)
		}
		return nil
	})
	quiet(t, more, fmt.Sprintf("prefetch %d of %s", prefetch, stream))
	home, of := predict(stream, count, g.all(stream)), map[string]int{}
	for n := range count {
		d := streamNext(t, came, fmt.Sprintf("delivery %d of %d, with prefetch %d", n+1, count, prefetch))
		if n == count/2 {
			for _, s := range g.all(stream) {
				if of[s.Queue] < count/2/6/4 {
					t.Errorf("prefetch %d: %s starves: of %d messages each shard gave %v", prefetch, s.Queue, n, of)
				}
			}
		}
		of[home[d.RoutingKey]]++
		has.Add(-1)
		sessionMust(t, d.Ack(false))
	}
	quiet(t, more, fmt.Sprintf("prefetch %d of %s, at any time", prefetch, stream))
}

// TestManyGroupPrefetchOneShard: a client that waits for as many messages as its prefetch
// before it acks any gets them, though all are in one shard of six.
func TestManyGroupPrefetchOneShard(t *testing.T) { bothBeside(t, testManyGroupPrefetchOneShard) }

func testManyGroupPrefetchOneShard(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for n, prefetch := range []int{2, 10, 100} {
		stream := g.make(groupModes[n%2], fmt.Sprint("one-shard-", prefetch))
		ch := g.channel(n)
		deliveries := g.consume(ch, stream, "batches", prefetch)
		g.shared(stream, []int{0, 1, 2}, 6)
		put := g.channel(0)
		streamConfirm(t, put)
		streamPublish(t, put, streamKeyed(stream, slices.Repeat([]string{"key"}, 2*prefetch)...)...)
		for range 2 {
			take(t, deliveries, prefetch)
			quiet(t, deliveries, fmt.Sprintf("prefetch %d, all in one shard", prefetch))
			sessionMust(t, ch.Ack(0, true))
		}
	}
}

// TestManyGroupPrefetchShared: of two consumers of a channel each has the prefetch for
// itself, and with global both have it together. One that is changed holds for the next
// consumer.
func TestManyGroupPrefetchShared(t *testing.T) { bothBeside(t, testManyGroupPrefetchShared) }

func testManyGroupPrefetchShared(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		stream := g.make(mode, "shared")
		each := g.channel(1)
		one, two := g.consume(each, stream, "one", 3), g.consume(each, stream, "two", 5)
		g.shared(stream, []int{1}, 3, 3)
		g.publish(0, stream, 240, "x")
		held := take(t, one, 3)
		held = append(held, take(t, two, 5)...)
		quiet(t, one, "the first of two with a prefetch each")
		quiet(t, two, "the second of two with a prefetch each")
		tags := map[uint64]bool{}
		for _, d := range held {
			tags[d.DeliveryTag] = true
		}
		if len(tags) != 8 || !tags[1] || !tags[8] {
			t.Errorf("%s: the tags of two consumers of a channel are %v, want 1 to 8", mode, tags)
		}
		sessionMust(t, each.Close())
		g.unread(stream)
		g.where(stream) // empties it

		together := g.channel(2)
		sessionMust(t, together.Qos(4, 0, true))
		all := make(chan amqp.Delivery)
		for _, tag := range []string{"one", "two"} {
			deliveries, err := together.Consume(stream, tag, false, false, false, false, nil)
			sessionMust(t, err)
			go func() { // ends with the channel or the test
				for d := range deliveries {
					select {
					case all <- d:
					case <-t.Context().Done():
					}
				}
			}()
		}
		g.shared(stream, []int{2}, 3, 3)
		g.publish(0, stream, 240, "x")
		take(t, all, 4)
		quiet(t, all, "two that share a prefetch of 4")
		sessionMust(t, together.Ack(2, true)) // two have room now
		take(t, all, 2)
		quiet(t, all, "two that share a prefetch of 4, with two acked")
		sessionMust(t, together.Close())
	}
}

// TestManyGroupPrefetchFar: the prefetch holds for each client by itself, whatever proxies
// and shards they have, while they share a stream.
func TestManyGroupPrefetchFar(t *testing.T) { bothBeside(t, testManyGroupPrefetchFar) }

func testManyGroupPrefetchFar(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	limits := []int{1, 2, 10, 1}
	var flows []*flow
	for _, mode := range groupModes {
		f := g.flow(mode, "far", 120)
		for i, prefetch := range limits {
			f.join(i%3, prefetch)
		}
		flows = append(flows, f)
	}
	for _, f := range flows {
		f.shared(f.stream, []int{0}, 2, 2, 1, 1)
		f.produceSome(3)
		for i, prefetch := range limits {
			tag := fmt.Sprintf("%s-c%d", f.stream, i)
			f.mu.Lock()
			top := f.top[tag]
			f.mu.Unlock()
			if top > prefetch || top == 0 {
				t.Errorf("%s held %d messages at once, its prefetch is %d", tag, top, prefetch)
			}
		}
		if got := f.readBy(); len(got) != 6 {
			t.Errorf("messages came of the shards %v", got)
		}
	}
}
