package test

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// handoverTime is the handover-timeout of these tests.
const handoverTime = 5 * time.Second

// TestManyGroupHandOver: a shard moves when its consumer has settled what it had of it, and
// no message of it goes to the next one before.
func TestManyGroupHandOver(t *testing.T) { bothBeside(t, testManyGroupHandOver) }

func testManyGroupHandOver(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "handover-timeout: 10m") // nothing here waits for that
	for _, mode := range groupModes {
		stream := g.make(mode, "settled")
		old, next := g.channel(0), g.channel(1)
		held, _ := g.holding(old, stream)
		after := g.consume(next, stream, "next", 0)
		handing := g.handing(stream)
		g.publish(2, stream, 60, "second")
		quiet(t, after, "before the previous consumer has settled what it holds")
		sessionMust(t, old.Ack(uint64(len(held)), true))
		owners := g.shared(stream, []int{0, 1, 2}, 3, 3)
		mine := 0
		for k, queue := range predict(stream, 60, g.all(stream)) {
			if owners[queue][0] == "next" {
				mine++
				if !handing[queue] {
					t.Errorf("%s: %s has moved with %s, and was not shown as handing over", mode, queue, k)
				}
			}
		}
		for _, d := range take(t, after, mine) { // flagged or not: the previous proxy may have had them
			if string(d.Body) != "second" {
				t.Errorf("%s: %q came to the next consumer", mode, d.Body)
			}
		}
		sessionMust(t, next.Ack(0, true))
		sessionMust(t, old.Ack(0, true))
	}
}

// holding consumes a stream alone, and holds a message of each key.
func (g *groups) holding(ch *amqp.Channel, stream string) (held []amqp.Delivery, more <-chan amqp.Delivery) {
	g.t.Helper()
	deliveries := g.consume(ch, stream, "old", 0)
	g.shared(stream, []int{0, 1, 2}, 6)
	g.publish(2, stream, 60, "first")
	return take(g.t, deliveries, 60), deliveries
}

// handing waits until shards are shown as handing over, at all proxies alike, and gives them.
func (g *groups) handing(stream string) (shards map[string]bool) {
	g.t.Helper()
	daemon.Eventually(g.t, handoverTime-time.Second, func() error {
		for i := range g.proxies {
			v, err := g.seen(i, stream)
			if err != nil {
				return err
			}
			shards = map[string]bool{}
			for _, s := range v.Shards {
				if s.State == "handing over" && s.Consumer == "old" {
					shards[s.Queue] = true
				}
			}
			if len(shards) != 3 {
				return fmt.Errorf("proxy %d shows %d shards as handing over, want 3: %+v", i, len(shards), v.Shards)
			}
		}
		return nil
	})
	return shards
}

// TestManyGroupHandOverLate: a consumer that does not settle what it has keeps its shards for
// handover-timeout and no longer. Its messages go to the next one, flagged. When it settles
// them then, that changes nothing for the next one, and nothing happens to its channel.
func TestManyGroupHandOverLate(t *testing.T) { both(t, testManyGroupHandOverLate) }

func testManyGroupHandOverLate(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", fmt.Sprintf("handover-timeout: %s", handoverTime))
	var all []*lateHandOver
	for _, mode := range groupModes {
		h := &lateHandOver{groups: g, stream: g.make(mode, "late"), old: g.channel(0), next: g.channel(1)}
		h.held, h.again = g.holding(h.old, h.stream)
		h.began = time.Now()
		h.taken = g.consume(h.next, h.stream, "next", 0)
		all = append(all, h)
	}
	for _, h := range all {
		h.settleLate(h.moved())
	}
}

// lateHandOver is one of which the old consumer settles nothing in time.
type lateHandOver struct {
	*groups
	stream       string
	old, next    *amqp.Channel
	held         []amqp.Delivery      // by the old one
	taken, again <-chan amqp.Delivery // what comes to the next one, and again to the old one
	began        time.Time
}

// moved waits for what the next consumer gets, which is all of its shards, and gives the keys.
func (h *lateHandOver) moved() (mine map[string]bool) {
	t := h.t
	first := streamNext(t, h.taken, "a message of a shard that is not settled in time")
	took := time.Since(h.began)
	if took < handoverTime-500*time.Millisecond || took > handoverTime+5*time.Second {
		t.Errorf("%s: the shards moved after %s, with a handover-timeout of %s", h.stream, took, handoverTime)
	}
	owners := h.shared(h.stream, []int{0, 1, 2}, 3, 3)
	mine = map[string]bool{}
	for k, queue := range predict(h.stream, 60, h.all(h.stream)) {
		if owners[queue][0] == "next" {
			mine[k] = true
		}
	}
	for _, d := range append([]amqp.Delivery{first}, take(t, h.taken, len(mine)-1)...) {
		if !mine[d.RoutingKey] || !d.Redelivered {
			t.Errorf("%s: key %s (redelivered %v) came to the next consumer", h.stream, d.RoutingKey, d.Redelivered)
		}
	}
	return mine
}

// settleLate has the old consumer settle what has gone from it, in all ways, and looks that
// the next one has it all the same: when its channel closes, all comes again.
func (h *lateHandOver) settleLate(mine map[string]bool) {
	t := h.t
	last := uint64(0)
	for i, d := range h.held {
		switch settle := i % 3; {
		case !mine[d.RoutingKey] || settle == 0: // with all, below
			last = d.DeliveryTag
		case settle == 1:
			sessionMust(t, d.Nack(false, true))
		default:
			sessionMust(t, d.Reject(false))
		}
	}
	sessionMust(t, h.old.Ack(last, true))
	streamLives(t, h.old)
	quiet(t, h.taken, "after late acks")
	quiet(t, h.again, "after late acks, at the old consumer")
	sessionMust(t, h.next.Close())
	for _, d := range take(t, h.again, len(mine)) {
		if !mine[d.RoutingKey] || !d.Redelivered {
			t.Errorf("%s: key %s (redelivered %v) came again to the old consumer", h.stream, d.RoutingKey, d.Redelivered)
		}
		sessionMust(t, d.Ack(false))
	}
	quiet(t, h.again, "after what the next consumer had")
	sessionMust(t, h.old.Close())
	h.ready(h.stream, 0)
}
