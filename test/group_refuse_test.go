package test

import (
	"errors"
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// TestManyGroupMode: a consumer that says which mode it expects is let in if the stream has
// it, and refused with 406 if not. The other channels go on.
func TestManyGroupMode(t *testing.T) { bothBeside(t, testManyGroupMode) }

func testManyGroupMode(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 1, "", "")
	const local = "shard.mode" // of a definition that says nothing of consumers
	g.declare(0, local)
	streams := map[string]string{"local": local}
	for _, mode := range groupModes {
		streams[mode] = g.make(mode, "mode")
	}
	conn, _ := g.dial(1)
	beside := streamOpen(t, conn)
	for mode, stream := range streams {
		for _, said := range []any{"local", "balanced", "ordered", "Ordered", "", int32(1), true} {
			ch := streamOpen(t, conn)
			_, err := ch.Consume(stream, "", false, false, false, false, amqp.Table{"x-group-mode": said})
			switch {
			case said == mode && err != nil:
				t.Errorf("a %s stream refuses a consumer that says so: %v", mode, err)
			case said == mode:
				sessionMust(t, ch.Close())
			case err == nil:
				t.Errorf("a %s stream takes a consumer that says %v (%[2]T)", mode, said)
			default:
				streamWantError(t, err, amqp.PreconditionFailed, "x-group-mode")
			}
		}
	}
	streamLives(t, beside)
	for _, mode := range groupModes {
		g.unread(streams[mode])
	}
}

// TestManyGroupExclusive: who consumes exclusively is alone in the whole group. It is refused
// where there is another, and refuses others at any proxy while it is there.
func TestManyGroupExclusive(t *testing.T) { bothBeside(t, testManyGroupExclusive) }

func testManyGroupExclusive(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		stream := g.make(mode, "exclusive")
		consume := func(i int, exclusive bool) (*amqp.Channel, error) {
			ch := g.channel(i)
			_, err := ch.Consume(stream, "it", false, exclusive, false, false, nil)
			return ch, err
		}
		refused := func(i int, exclusive bool) {
			t.Helper()
			_, err := consume(i, exclusive)
			streamWantError(t, err, amqp.AccessRefused)
		}
		alone, err := consume(0, true)
		sessionMust(t, err)
		g.shared(stream, []int{0, 1, 2}, 6)
		for i := range 3 {
			refused(i, false)
			refused(i, true)
		}
		g.shared(stream, []int{0, 1, 2}, 6)
		sessionMust(t, alone.Close())

		var plain *amqp.Channel
		daemon.Eventually(t, streamPatience, func() (err error) { // when proxy 1 knows that it has gone
			plain, err = consume(1, false)
			return err
		})
		g.shared(stream, []int{0, 1, 2}, 6)
		for i := range 3 {
			refused(i, true)
		}
		_, err = consume(2, false)
		sessionMust(t, err)
		g.shared(stream, []int{0, 1, 2}, 3, 3)
		streamLives(t, plain)
	}
}

// TestManyGroupExclusiveAtOnce: of several that ask to be alone at the same moment at all
// proxies, one stays and reads everything. The others are refused, or cancelled when the
// proxies have heard of each other.
func TestManyGroupExclusiveAtOnce(t *testing.T) { bothBeside(t, testManyGroupExclusiveAtOnce) }

func testManyGroupExclusiveAtOnce(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 1, "", "")
	for round := range 4 {
		stream := g.make(groupModes[round%2], fmt.Sprint("at-once-", round))
		ends := make(chan *amqp.Error, 6) // nil: cancelled
		for _, ch := range g.channels(cap(ends)) {
			closed, cancelled := ch.NotifyClose(make(chan *amqp.Error, 1)), ch.NotifyCancel(make(chan string, 1))
			go func() { // ends with the channel
				ch.Consume(stream, "", false, true, false, false, nil)
				select {
				case err := <-closed:
					ends <- err
				case <-cancelled:
					ends <- nil
				}
			}()
		}
		for range cap(ends) - 1 {
			if err := streamNext(t, ends, "end of all but one"); err != nil {
				streamWantError(t, err, amqp.AccessRefused)
			}
		}
		g.shared(stream, []int{0, 1, 2}, 3)
		if len(ends) > 0 {
			t.Errorf("round %d: none of those that wanted to be alone is left", round)
		}
	}
}

// TestManyGroupSingleActive: the shards of an ordered stream are declared for a single active
// consumer, those of a balanced one not.
func TestManyGroupSingleActive(t *testing.T) {
	g := startGroups(t, apart, 1, "", "")
	for _, mode := range groupModes {
		stream := g.make(mode, "single")
		for i, s := range g.all(stream) {
			for _, single := range []bool{false, true} {
				ch, err := g.past(i)
				sessionMust(t, err)
				arguments := amqp.Table{"x-queue-master-locator": "client-local"}
				if single {
					arguments["x-single-active-consumer"] = true
				}
				_, err = ch.QueueDeclare(s.Queue, true, false, false, false, arguments)
				if same := err == nil; same != (single == (mode == "ordered")) {
					t.Errorf("declare %s with %v: %v", s.Queue, arguments, err)
				}
			}
		}
	}
}

// TestManyGroupWithoutSingleActive: an ordered group reads classic shards that were there
// before and are not for a single active consumer, each with one consumer, in order, while
// members come and go; nobody else reads them meanwhile.
func TestManyGroupWithoutSingleActive(t *testing.T) { bothBeside(t, testManyGroupWithoutSingleActive) }

func testManyGroupWithoutSingleActive(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	const name = "before"
	for i := range g.brokers {
		ch, err := g.past(i)
		sessionMust(t, err)
		for _, s := range g.plain("ordered."+name, 2, i) {
			_, err := ch.QueueDeclare(s.Queue, true, false, false, false, nil)
			sessionMust(t, err)
		}
	}
	f := g.flow("ordered", name, 120)
	one := f.join(0, 20)
	f.shared(f.stream, []int{0, 1, 2}, 6)
	f.produce(0, 0)
	f.join(1, 20)
	f.shared(f.stream, []int{0, 1, 2}, 3, 3)
	for i, s := range g.all(f.stream) {
		ch, err := g.past(i / 2)
		sessionMust(t, err)
		_, err = ch.Consume(s.Queue, "", false, false, false, false, nil)
		var refused *amqp.Error
		if !errors.As(err, &refused) || refused.Code != amqp.AccessRefused {
			t.Errorf("somebody else may consume %s: %v", s.Queue, err)
		}
	}
	f.another(2)
	one.leave()
	f.shared(f.stream, []int{0, 1, 2}, 6)
	f.another(2)
	f.end()
	f.verdict(t, false)
}

// TestManyGroupDeleted: when the stream is deleted, its consumers at all proxies are told
// that they are cancelled, once and for all, and their channels go on. A client that does
// not understand that is told nothing.
func TestManyGroupDeleted(t *testing.T) { bothBeside(t, testManyGroupDeleted) }

func testManyGroupDeleted(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		stream := g.make(mode, "deleted")
		told, channels := map[string]<-chan string{}, map[string]*amqp.Channel{}
		for i := range 9 { // of an ordered group three stand by
			tag := fmt.Sprint("c", i)
			ch := g.channel(i % 3)
			told[tag], channels[tag] = ch.NotifyCancel(make(chan string, 8)), ch
			g.consume(ch, stream, tag, 5)
		}
		deaf := rawDial(t, g.proxies[1].Addr())
		deaf.login(rawLogin{vhost: g.vhost})
		deaf.send(`1 basic.consume queue="` + stream + `" consumer-tag="deaf"`)
		deaf.want(frame.BasicConsumeOk)
		g.publish(0, stream, 60, "x")
		sessionMust(t, g.channel(0).ExchangeDelete(stream, false, false))
		for tag, cancelled := range told {
			if got := streamNext(t, cancelled, "basic.cancel for "+tag); got != tag {
				t.Errorf("%s is told that %s is cancelled", tag, got)
			}
			sessionMust(t, channels[tag].Ack(0, true))
			streamLives(t, channels[tag])
			if len(cancelled) > 0 {
				t.Errorf("%s is told more than once", tag)
			}
		}
		g.unread(stream)
		deaf.send(`1 exchange.declare exchange="amq.direct" type="direct" passive durable`)
		for f := deaf.next(); f.Method() != frame.ExchangeDeclareOk; f = deaf.next() {
			if f.Method() == frame.BasicCancel {
				t.Errorf("a client that does not understand basic.cancel got %s", f)
			}
		}
		sessionMust(t, deaf.Close())
	}
}
