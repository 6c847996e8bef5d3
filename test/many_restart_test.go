package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
	"amqproxy/test/daemon"
)

const crowdKeys = 60

// TestManyRollingCrashes: while publishers run through all proxies, each proxy is
// killed and starts again. No key is ever in two shards.
func TestManyRollingCrashes(t *testing.T) { bothBeside(t, testManyRollingCrashes) }

func testManyRollingCrashes(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.crashes"
	m.declare(0, stream)
	c := m.startCrowd(stream, crowdKeys, 0, 1, 2)
	c.another(0, 1, 2)
	for i := range m.proxies {
		others := slices.DeleteFunc([]int{0, 1, 2}, func(j int) bool { return j == i })
		m.proxies[i].Kill()
		if i == 1 { // once for so long that the others have noticed
			m.lost(1, others...)
		}
		c.another(others...)
		m.proxies[i].Boot()
		c.another(0, 1, 2)
	}
	c.end()
	all := m.plain(stream, 2, 0, 1, 2)
	m.onlyAt(stream, crowdKeys, all, predict(stream, crowdKeys, all))
}

// TestManyRollingStops: the same with proxies that stop in order. By design the
// keys of a node that has stopped are where the table without it has them, so that
// each key is at home or there, and nowhere else.
func TestManyRollingStops(t *testing.T) { bothBeside(t, testManyRollingStops) }

func testManyRollingStops(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.stops"
	m.declare(0, stream)
	c := m.startCrowd(stream, crowdKeys, 0, 1, 2)
	c.another(0, 1, 2)
	home := predict(stream, crowdKeys, m.plain(stream, 2, 0, 1, 2))
	second := map[string]string{}
	for i := range m.proxies {
		others := slices.DeleteFunc([]int{0, 1, 2}, func(j int) bool { return j == i })
		without := predict(stream, crowdKeys, m.plain(stream, 2, others...))
		for _, k := range moved(home, without) {
			second[k] = without[k]
		}
		if code := m.proxies[i].Stop(20 * time.Second); code != 0 {
			t.Errorf("proxy %d ended with code %d", i, code)
		}
		c.another(others...)
		m.proxies[i].Boot()
		m.agree(stream, 6, streamPatience, m.proxies...)
		c.another(0, 1, 2)
	}
	c.end()
	if len(second) != crowdKeys {
		t.Fatalf("%d of %d keys have a second shard", len(second), crowdKeys)
	}
	m.onlyAt(stream, crowdKeys, m.plain(stream, 2, 0, 1, 2), home, second)
}

// onlyAt checks that every key is stored, and in no other shards than those that
// it has in one of these tables.
func (m *many) onlyAt(stream string, keys int, shards []shard.Shard, tables ...map[string]string) {
	m.t.Helper()
	found := m.spread(shards)
	wrong, messages := 0, 0
	for k, queues := range found {
		for q, n := range queues {
			messages += n
			if slices.ContainsFunc(tables, func(at map[string]string) bool { return at[k] == q }) {
				continue
			}
			if wrong++; wrong <= 5 {
				m.t.Errorf("%d messages of %s are in %s", n, k, q)
			}
		}
	}
	if wrong > 0 || len(found) != keys {
		m.t.Errorf("of %d keys in %d messages, %d have a shard that is not theirs; want %d keys", len(found), messages, wrong, keys)
	}
}

// lost waits until some proxies say that a node is silent.
func (m *many) lost(i int, at ...int) {
	m.t.Helper()
	daemon.Eventually(m.t, 30*time.Second, func() error {
		for _, p := range at {
			if slices.Contains(m.alive(p), m.brokers[i].Name()) {
				return fmt.Errorf("to proxy %d, proxy %d is still alive", p, i)
			}
		}
		return nil
	})
}

// TestManyFirstMessages: whoever publishes through whatever proxy when declare-ok
// has come finds the keys where everybody has them.
func TestManyFirstMessages(t *testing.T) { bothBeside(t, testManyFirstMessages) }

func testManyFirstMessages(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const streams, keys = 12, 60
	declarers, publishers := make([]*amqp.Channel, 3), make([]*amqp.Channel, 3)
	for i := range m.proxies {
		declarers[i], publishers[i] = m.channel(i), m.channel(i)
		streamConfirm(t, publishers[i])
		closed := publishers[i].NotifyClose(make(chan *amqp.Error, 1))
		t.Cleanup(func() {
			select {
			case err := <-closed:
				t.Logf("the publisher at proxy %d was closed: %v", i, err)
			default:
			}
		})
	}
	for s := range streams {
		stream := fmt.Sprintf("shard.first-%d", s)
		messages := make([]streamMessage, keys)
		for k := range keys {
			messages[k] = streamMessage{exchange: stream, key: key(k)}
		}
		if err := declarers[s%3].ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, len(publishers))
		for _, ch := range publishers {
			go func() { failed <- streamTryPublish(t.Context(), ch, messages...) }()
		}
		for range publishers {
			if err := <-failed; err != nil {
				t.Fatalf("%s: %v", stream, err)
			}
		}
		shards := m.plain(stream, 2, 0, 1, 2)
		m.onlyAt(stream, keys, shards, predict(stream, keys, shards))
	}
}
