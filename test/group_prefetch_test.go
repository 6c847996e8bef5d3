package test

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestManyGroupPrefetch: a client has never more that it has not acknowledged than its
// prefetch says, over all six shards together, and all of these come forward; without a
// prefetch it gets everything.
func TestManyGroupPrefetch(t *testing.T) { both(t, testManyGroupPrefetch) }

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

// slowly takes as many deliveries as a consumer may have, looks whether there are more, and
// then goes on acking the oldest. In the first half every shard has to come forward.
func (g *groups) slowly(t *testing.T, prefetch, count int, stream string, deliveries <-chan amqp.Delivery) {
	t.Helper()
	held := take(t, deliveries, prefetch)
	quiet(t, deliveries, fmt.Sprintf("prefetch %d of %s", prefetch, stream))
	home, of := predict(stream, count, g.all(stream)), map[string]int{}
	for n := 1; len(held) > 0; n++ {
		oldest := held[0]
		of[home[oldest.RoutingKey]]++
		sessionMust(t, oldest.Ack(false))
		if held = held[1:]; n+len(held) < count {
			held = append(held, take(t, deliveries, 1)...)
		}
		select {
		case d := <-deliveries:
			t.Errorf("prefetch %d: %s came as well", prefetch, d.RoutingKey)
		default:
		}
		if n == count/2 {
			for _, s := range g.all(stream) {
				if of[s.Queue] < count/2/6/4 {
					t.Errorf("prefetch %d: %s starves: of %d messages each shard gave %v", prefetch, s.Queue, n, of)
				}
			}
		}
	}
	if len(of) != 6 {
		t.Errorf("prefetch %d: messages came of the shards %v", prefetch, of)
	}
}

// TestManyGroupPrefetchShared: of two consumers of a channel each has the prefetch for
// itself, and with global both have it together. One that is changed holds for the next
// consumer.
func TestManyGroupPrefetchShared(t *testing.T) { both(t, testManyGroupPrefetchShared) }

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
		seen := take(t, all, 4)
		quiet(t, all, "two that share a prefetch of 4")
		sessionMust(t, seen[1].Ack(true)) // two have room now
		take(t, all, 2)
		quiet(t, all, "two that share a prefetch of 4, with two acked")
		sessionMust(t, together.Close())
	}
}

// TestManyGroupPrefetchFar: the prefetch holds for each client by itself, whatever proxies
// and shards they have, while they share a stream.
func TestManyGroupPrefetchFar(t *testing.T) { both(t, testManyGroupPrefetchFar) }

func testManyGroupPrefetchFar(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		f := g.flow(mode, "far", 240)
		var readers []*reader
		limits := []int{1, 2, 10, 1}
		for i, prefetch := range limits {
			readers = append(readers, f.join(i%3, prefetch))
		}
		f.shared(f.stream, []int{0}, 2, 2, 1, 1)
		f.produce(0, 0)
		f.another(5)
		f.end()
		f.verdict(t, false)
		for i, r := range readers {
			f.mu.Lock()
			top := f.top[r.tag]
			f.mu.Unlock()
			if top > limits[i] || top == 0 {
				t.Errorf("%s held %d messages at once, its prefetch is %d", r.tag, top, limits[i])
			}
			r.leave()
		}
		if got := f.readBy(); len(got) != 6 {
			t.Errorf("messages came of the shards %v", got)
		}
	}
}
