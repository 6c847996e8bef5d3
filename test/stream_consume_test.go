package test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// streamConsume consumes v with a tag and manual acks.
func streamConsume(t *testing.T, ch *amqp.Channel, v, tag string) <-chan amqp.Delivery {
	t.Helper()
	from, err := ch.Consume(v, tag, false, false, false, false, nil)
	if err != nil {
		t.Fatalf("consume %s as %q: %v", v, tag, err)
	}
	return from
}

// wantConsumers wants the broker to have these counts of consumers, sorted, on v's
// shards. The broker takes a moment to notice that a connection is gone.
func (l *streamLab) wantConsumers(t *testing.T, v string, want ...int) {
	t.Helper()
	daemon.Eventually(t, streamPatience, func() error {
		_, got := l.shards(t, v, len(want))
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("the shards of %s have %v consumers, want %v", v, got, want)
		}
		return nil
	})
}

// TestStreamFewestConsumers: a new consumer gets one of the shards that have the
// fewest, wherever the others are connected.
func TestStreamFewestConsumers(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"few": "{shards-per-node: 3}"})
	steps := [][]int{{0, 0, 1}, {0, 1, 1}, {1, 1, 1}, {1, 1, 2}, {1, 2, 2}, {2, 2, 2}, {2, 2, 3}}
	t.Run("on one channel", func(t *testing.T) {
		l.declare(t, "few.channel")
		ch := l.channel(t)
		for i, want := range steps {
			streamConsume(t, ch, "few.channel", fmt.Sprint("c", i))
			l.wantConsumers(t, "few.channel", want...)
		}
	})
	t.Run("on connections of their own", func(t *testing.T) {
		l.declare(t, "few.connections")
		for _, want := range steps {
			streamConsume(t, l.channel(t), "few.connections", "same tag")
			l.wantConsumers(t, "few.connections", want...)
		}
	})
	t.Run("20 at once", func(t *testing.T) {
		l.declare(t, "few.once")
		var consuming sync.WaitGroup
		for range 20 {
			ch := l.channel(t)
			consuming.Go(func() {
				if _, err := ch.Consume("few.once", "", false, false, false, false, nil); err != nil {
					t.Errorf("consume: %v", err)
				}
			})
		}
		consuming.Wait()
		l.wantConsumers(t, "few.once", 6, 7, 7)
	})
}

// TestStreamFreesPlaces: who leaves by whatever way makes room for the next.
func TestStreamFreesPlaces(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"free": "{shards-per-node: 2}"})
	leave := map[string]func(*testing.T, string) []func(){
		"cancel": func(t *testing.T, v string) (out []func()) {
			ch := l.channel(t)
			for _, tag := range []string{"a", "b"} {
				streamConsume(t, ch, v, tag)
				out = append(out, func() { streamMust(t, ch.Cancel(tag, false)) })
			}
			return out
		},
		"cancel with nowait": func(t *testing.T, v string) (out []func()) {
			ch := l.channel(t)
			for _, tag := range []string{"a", "b"} {
				streamConsume(t, ch, v, tag)
				out = append(out, func() { streamMust(t, ch.Cancel(tag, true)) })
			}
			return out
		},
		"channel.close": func(t *testing.T, v string) (out []func()) {
			conn := l.dial(t)
			for range 2 {
				ch := streamOpen(t, conn)
				streamConsume(t, ch, v, "")
				out = append(out, func() { streamMust(t, ch.Close()) })
			}
			return out
		},
		"channel error": func(t *testing.T, v string) (out []func()) {
			conn := l.dial(t)
			for range 2 {
				ch := streamOpen(t, conn)
				streamConsume(t, ch, v, "")
				out = append(out, func() { streamWantError(t, ch.ExchangeBind(v, "k", "amq.direct", false, nil), amqp.PreconditionFailed) })
			}
			return out
		},
		"connection.close": func(t *testing.T, v string) (out []func()) {
			for range 2 {
				conn := l.dial(t)
				streamConsume(t, streamOpen(t, conn), v, "")
				out = append(out, func() { streamMust(t, conn.Close()) })
			}
			return out
		},
		"lost connection": func(t *testing.T, v string) (out []func()) {
			for range 2 {
				w := l.wire(t, 131072)
				w.send(fmt.Sprintf("1 basic.consume queue=%q", v))
				w.want("1 basic.consume-ok")
				out = append(out, func() { streamMust(t, w.conn.Close()) })
			}
			return out
		},
	}
	for name, enter := range leave {
		t.Run(name, func(t *testing.T) {
			v := "free." + name
			l.declare(t, v)
			leavers := enter(t, v) // one on each shard
			stays := l.channel(t)
			l.wantConsumers(t, v, 1, 1)
			// Whichever leaves, the next two fill up and even out.
			leavers[0]()
			l.wantConsumers(t, v, 0, 1)
			streamConsume(t, stays, v, "next")
			l.wantConsumers(t, v, 1, 1)
			leavers[1]()
			l.wantConsumers(t, v, 0, 1)
			streamConsume(t, stays, v, "another")
			l.wantConsumers(t, v, 1, 1)
		})
	}
}

func streamMust(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestStreamRefusedConsumersHoldNoPlace: a consume that the broker refuses leaves
// no trace in the counts.
func TestStreamRefusedConsumersHoldNoPlace(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"ref": "{shards-per-node: 2}"})
	const v = "ref.a"
	l.declare(t, v)
	for range 5 { // an odd number of refusals
		_, err := l.channel(t).Consume(v, "", false, false, false, false, amqp.Table{"x-priority": "not a number"})
		streamWantError(t, err, amqp.PreconditionFailed)
	}
	streamConsume(t, l.channel(t), v, "")
	l.wantConsumers(t, v, 0, 1)
	streamConsume(t, l.channel(t), v, "")
	l.wantConsumers(t, v, 1, 1)
}

// TestStreamPickRandom: "consume-pick: random" balances nothing.
func TestStreamPickRandom(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"pick": "{shards-per-node: 2, consume-pick: random}"})
	const v = "pick.a"
	l.declare(t, v)
	ch := l.channel(t)
	uneven := false
	for i := range 30 { // two picks differ each time once in 2^30 runs
		streamConsume(t, ch, v, fmt.Sprint("a", i))
		streamConsume(t, ch, v, fmt.Sprint("b", i))
		_, got := l.shards(t, v, 2)
		if got[0]+got[1] != 2*(i+1) {
			t.Fatalf("the shards have %v consumers, want %d in all", got, 2*(i+1))
		}
		uneven = uneven || got[0] != got[1]
	}
	_, got := l.shards(t, v, 2)
	if !uneven {
		t.Error("30 times two consumers got one shard each, want them at random")
	}
	if got[0] == 0 || got[1] == 0 {
		t.Errorf("the shards have %v consumers, want some on each", got)
	}
}

// TestStreamExclusive: exclusive consumers spread, until there is no shard left.
func TestStreamExclusive(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"excl": "{shards-per-node: 2}"})
	const v = "excl.a"
	l.declare(t, v)
	conn := l.dial(t)
	exclusive := func() (*amqp.Channel, error) {
		ch := streamOpen(t, conn)
		_, err := ch.Consume(v, "", false, true, false, false, nil)
		return ch, err
	}
	first, err := exclusive()
	streamMust(t, err)
	_, err = exclusive()
	streamMust(t, err)
	l.wantConsumers(t, v, 1, 1)
	_, err = exclusive()
	streamWantError(t, err, amqp.AccessRefused, "exclusive use")
	streamMust(t, first.Close())
	if _, err = exclusive(); err != nil {
		t.Errorf("after one of the two left: %v", err)
	}
	l.wantConsumers(t, v, 1, 1)
}

// TestStreamConsumerArguments: they reach the shard.
func TestStreamConsumerArguments(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"prio": "{}"})
	const v, count = "prio.a", 20
	l.declare(t, v)
	from := map[string]<-chan amqp.Delivery{}
	for tag, priority := range map[string]int{"low": -5, "high": 10, "middle": 0} {
		d, err := l.channel(t).Consume(v, tag, true, false, false, false, amqp.Table{"x-priority": priority})
		streamMust(t, err)
		from[tag] = d
	}
	l.publish(t, streamKeyed(v, streamKeys("k", count)...)...)
	for range count {
		if d := streamNext(t, from["high"], "delivery to the consumer of the highest priority"); d.ConsumerTag != "high" {
			t.Errorf("consumer tag %q, want high", d.ConsumerTag)
		}
	}
}
