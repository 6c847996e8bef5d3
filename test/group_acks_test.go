package test

import (
	"fmt"
	"slices"
	"testing"

	"amqproxy/test/daemon"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"
)

// groupSettle is one way to settle what a consumer of a group holds: 60 deliveries of 6
// shards on three nodes, with the tags from 1.
type groupSettle struct {
	name   string
	settle func(*amqp.Channel) error
	again  []uint64 // tags of what comes again to the same consumer, by which it was first known
	left   []uint64 // what somebody else gets when the channel has closed
}

// tags are from first to last.
func tags(first, last uint64) (all []uint64) {
	for tag := first; tag <= last; tag++ {
		all = append(all, tag)
	}
	return all
}

// groupSettles are the cases. What comes again is acked.
var groupSettles = []groupSettle{
	{"ack one", func(ch *amqp.Channel) error { return ch.Ack(7, false) }, nil, append(tags(1, 6), tags(8, 60)...)},
	{"ack up to one", func(ch *amqp.Channel) error { return ch.Ack(30, true) }, nil, tags(31, 60)},
	{"ack all", func(ch *amqp.Channel) error { return ch.Ack(0, true) }, nil, nil},
	{"ack the rest", func(ch *amqp.Channel) error { ch.Ack(31, false); ch.Ack(30, true); return ch.Ack(60, false) }, nil, tags(32, 59)},
	{"nack and drop up to one", func(ch *amqp.Channel) error { return ch.Nack(20, true, false) }, nil, tags(21, 60)},
	{"nack one", func(ch *amqp.Channel) error { return ch.Nack(5, false, true) }, tags(5, 5), append(tags(1, 4), tags(6, 60)...)},
	{"nack up to one", func(ch *amqp.Channel) error { return ch.Nack(25, true, true) }, tags(1, 25), tags(26, 60)},
	{"nack all", func(ch *amqp.Channel) error { return ch.Nack(0, true, true) }, tags(1, 60), nil},
	{"nack and drop all", func(ch *amqp.Channel) error { return ch.Nack(0, true, false) }, nil, nil},
	{"reject one and drop one", func(ch *amqp.Channel) error { ch.Reject(9, false); return ch.Reject(10, true) }, tags(10, 10), append(tags(1, 8), tags(11, 60)...)},
	{"recover", func(ch *amqp.Channel) error { ch.Ack(10, true); return ch.Recover(true) }, tags(11, 60), nil},
}

// TestManyGroupSettles: ack, nack, reject and recover do to a consumer of many shards exactly
// what they do to one of a queue.
func TestManyGroupSettles(t *testing.T) { bothBeside(t, testManyGroupSettles) }

func testManyGroupSettles(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for n, c := range groupSettles {
		mode := groupModes[n%2]
		stream := g.make(mode, fmt.Sprint("settles-", n))
		t.Run(c.name, func(t *testing.T) { c.run(t, g, stream, n%3) })
	}
}

func (c groupSettle) run(t *testing.T, g *groups, stream string, proxy int) {
	const count = 60
	g.publish(0, stream, count, "x")
	conn, _ := g.dial(proxy)
	ch := streamOpen(t, conn)
	deliveries := g.consume(ch, stream, "first", 0)
	keyOf := map[uint64]string{}
	for n, d := range take(t, deliveries, count) {
		if d.DeliveryTag != uint64(n+1) {
			t.Fatalf("delivery %d has tag %d", n+1, d.DeliveryTag)
		}
		keyOf[d.DeliveryTag] = d.RoutingKey
	}
	keys := func(tags []uint64) (keys []string) {
		for _, tag := range tags {
			keys = append(keys, keyOf[tag])
		}
		slices.Sort(keys)
		return keys
	}
	sessionMust(t, c.settle(ch))
	var again []string
	for n, d := range take(t, deliveries, len(c.again)) {
		again = append(again, d.RoutingKey)
		if want := uint64(count + n + 1); d.DeliveryTag != want || !d.Redelivered || d.ConsumerTag != "first" {
			t.Errorf("again came tag %d, redelivered %v, for %q; want tag %d", d.DeliveryTag, d.Redelivered, d.ConsumerTag, want)
		}
		sessionMust(t, d.Ack(false))
	}
	slices.Sort(again)
	if diff := cmp.Diff(keys(c.again), again); diff != "" {
		t.Errorf("other messages came again (- expected, + came):\n%s", diff)
	}
	sessionMust(t, ch.Close()) // after all that was sent before it

	other := g.consume(g.channel((proxy+1)%3), stream, "other", 0)
	var left []string
	for _, d := range take(t, other, len(c.left)) {
		left = append(left, d.RoutingKey)
		if !d.Redelivered {
			t.Errorf("%s came again and is said to be new", d.RoutingKey)
		}
	}
	slices.Sort(left)
	if diff := cmp.Diff(keys(c.left), left); diff != "" {
		t.Errorf("other messages were left (- expected, + left):\n%s", diff)
	}
	quiet(t, other, "after what was left")
}

// TestManyGroupUnknownTags: what a client can't have is refused on its channel with
// RabbitMQ's words, and what it holds comes again.
func TestManyGroupUnknownTags(t *testing.T) { bothBeside(t, testManyGroupUnknownTags) }

func testManyGroupUnknownTags(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	stream := g.make("ordered", "unknown")
	const count = 30
	g.publish(0, stream, count, "x")
	for _, c := range []struct {
		name  string
		tag   uint64
		wrong func(*amqp.Channel) error
	}{
		{"ack", 999, func(ch *amqp.Channel) error { return ch.Ack(999, false) }},
		{"ack of all up to it", 31, func(ch *amqp.Channel) error { return ch.Ack(31, true) }},
		{"nack", 77, func(ch *amqp.Channel) error { return ch.Nack(77, false, true) }},
		{"reject", 78, func(ch *amqp.Channel) error { return ch.Reject(78, true) }},
		{"nack once more", 3, func(ch *amqp.Channel) error { ch.Nack(3, false, true); return ch.Nack(3, false, true) }},
	} {
		conn, _ := g.dial(1)
		ch, beside := streamOpen(t, conn), streamOpen(t, conn)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		take(t, g.consume(ch, stream, "c", 0), count)
		sessionMust(t, c.wrong(ch))
		streamWantClosed(t, closed, amqp.PreconditionFailed, fmt.Sprintf("unknown delivery tag %d", c.tag))
		streamLives(t, beside)
		sessionMust(t, conn.Close())
	}
	conn, _ := g.dial(2)
	ch := streamOpen(t, conn)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	for _, d := range take(t, g.consume(ch, stream, "c", 0), count) {
		if !d.Redelivered {
			t.Errorf("%s came again and is said to be new", d.RoutingKey)
		}
	}
	sessionMust(t, ch.Ack(0, true))
	sessionMust(t, ch.Ack(count, false)) // is settled
	streamWantClosed(t, closed, amqp.PreconditionFailed, fmt.Sprintf("unknown delivery tag %d", count))
	g.ready(stream, 0)
}

// TestManyGroupOneSequence: a channel that consumes a group and an ordinary queue, and gets
// from another of each, has one sequence of tags, and one ack settles all.
func TestManyGroupOneSequence(t *testing.T) { bothBeside(t, testManyGroupOneSequence) }

func testManyGroupOneSequence(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	const rounds, streamed, plain, got = 3, 30, 10, 6
	for _, mode := range groupModes {
		stream, other := g.make(mode, "sequence"), g.make(mode, "other")
		ch := g.channel(1)
		for _, queue := range []string{mode, mode + "-other"} {
			_, err := ch.QueueDeclare(queue, true, false, false, false, nil)
			sessionMust(t, err)
		}
		fromStream, fromQueue := g.consume(ch, stream, "streamed", 0), g.consume(ch, mode, "plain", 0)
		var seen []uint64
		for range rounds {
			g.publish(0, stream, streamed, "x")
			g.publish(0, other, got, "x")
			for i := range plain + got {
				queue := []string{mode, mode + "-other"}[min(i/plain, 1)]
				sessionMust(t, ch.Publish("", queue, false, false, amqp.Publishing{}))
			}
			for i := range 2 * got {
				queue := []string{other, mode + "-other"}[i%2]
				daemon.Eventually(t, streamPatience, func() error {
					d, ok, err := ch.Get(queue, false)
					if ok {
						seen = append(seen, d.DeliveryTag)
						return nil
					}
					return fmt.Errorf("%s is empty (%v)", queue, err)
				})
			}
			for _, d := range append(take(t, fromStream, streamed), take(t, fromQueue, plain)...) {
				seen = append(seen, d.DeliveryTag)
			}
		}
		slices.Sort(seen)
		const each = streamed + plain + 2*got
		if diff := cmp.Diff(tags(1, rounds*each), seen); diff != "" {
			t.Errorf("%s: the tags are not one sequence (- expected, + seen):\n%s", mode, diff)
		}
		sessionMust(t, ch.Ack(2*each, true))
		sessionMust(t, ch.Ack(0, true))
		sessionMust(t, ch.Close())
		g.ready(stream, 0)
		g.ready(other, 0)
		for _, queue := range []string{mode, mode + "-other"} {
			q, err := g.channel(1).QueueDeclarePassive(queue, true, false, false, false, nil)
			if err != nil || q.Messages > 0 {
				t.Errorf("%d messages were left in %s (%v)", q.Messages, queue, err)
			}
		}
	}
}
