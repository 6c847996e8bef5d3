package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

const manyKeys = 600

// moved are the keys that are in another queue than before.
func moved(before, after map[string]string) (keys []string) {
	for k, q := range before {
		if after[k] != q {
			keys = append(keys, k)
		}
	}
	return keys
}

// TestManyDeclareIsEverywhere: declare-ok through one proxy means that all
// proxies send every key to the same queue.
func TestManyDeclareIsEverywhere(t *testing.T) { both(t, testManyDeclareIsEverywhere) }

func testManyDeclareIsEverywhere(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.everywhere"
	m.declare(1, stream)
	m.agree(stream, 6, 2*time.Second, m.proxies...)
	var first map[string]string
	for i := range m.proxies {
		m.publish(i, stream, manyKeys, "x")
		at := m.where(stream)
		if len(at) != manyKeys {
			t.Fatalf("through proxy %d: %d of %d keys are stored", i, len(at), manyKeys)
		}
		if first == nil {
			first = at
		}
		if k := moved(first, at); len(k) > 0 {
			t.Fatalf("proxy %d puts %d keys elsewhere than proxy 0", i, len(k))
		}
	}
}

// TestManyCrashAndQuickReturn: a proxy that crashes and returns within the grace
// moves no key, and knows its streams.
func TestManyCrashAndQuickReturn(t *testing.T) { both(t, testManyCrashAndQuickReturn) }

func testManyCrashAndQuickReturn(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.quick"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	m.proxies[2].Kill()
	m.publish(0, stream, manyKeys, "meanwhile")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys moved while the proxy was away", len(k))
	}
	m.proxies[2].Boot()
	m.publish(2, stream, manyKeys, "after")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys moved when it was back", len(k))
	}
}

// TestManyLostForGood: after the grace, a silent node's keys go elsewhere, and no
// others; when it is back, they return.
func TestManyLostForGood(t *testing.T) { bothBeside(t, testManyLostForGood) }

func testManyLostForGood(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "limits: {lost-grace: 1s}")
	const stream = "shard.lost"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	m.proxies[2].Kill()
	m.agree(stream, 4, 30*time.Second, m.proxies[:2]...)
	m.publish(1, stream, manyKeys, "without")
	m.onlyMoved(before, m.where(stream), 2)
	m.proxies[2].Boot()
	m.agree(stream, 6, streamPatience, m.proxies...)
	m.publish(1, stream, manyKeys, "after")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys did not return", len(k))
	}
}

// onlyMoved checks that exactly the keys of node i's shards have moved.
func (m *many) onlyMoved(before, after map[string]string, i int) {
	m.t.Helper()
	node := m.brokers[i].Name()
	for k, q := range before {
		was := fmt.Sprintf(" - %s - ", node)
		gone := strings.Contains(q, was)
		switch {
		case gone && strings.Contains(after[k], was):
			m.t.Errorf("%s is still sent to %s", k, after[k])
		case gone && after[k] == "":
			m.t.Errorf("%s is nowhere", k)
		case !gone && after[k] != q:
			m.t.Errorf("%s moved from %s to %s, which node %s has nothing to do with", k, q, after[k], node)
		}
	}
}

// TestManyOrderlyStop: a proxy that stops in order takes its shards out of the
// tables before it ends.
func TestManyOrderlyStop(t *testing.T) { both(t, testManyOrderlyStop) }

func testManyOrderlyStop(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	const stream = "shard.stop"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	if code := m.proxies[1].Stop(20 * time.Second); code != 0 {
		t.Errorf("the proxy ended with code %d", code)
	}
	m.agree(stream, 2, 2*time.Second, m.proxies[0], m.proxies[2])
	m.publish(0, stream, manyKeys, "without")
	m.onlyMoved(before, m.where(stream), 1)
	m.proxies[1].Boot()
	m.agree(stream, 3, 5*time.Second, m.proxies...)
	m.publish(0, stream, manyKeys, "after")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys did not return", len(k))
	}
}

// TestManyBrokerDies: the broker's own proxy tells of it within 2 s, its keys go
// to the next shard and everyone else's stay; when it is back they return.
func TestManyBrokerDies(t *testing.T) { both(t, testManyBrokerDies) }

func testManyBrokerDies(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.broker"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	if err := m.brokers[2].Sync(t.Context()); err != nil { // or the queues may be gone with it
		t.Fatal(err)
	}
	m.brokers[2].Kill()
	m.agree(stream, 4, 3*time.Second, m.proxies[:2]...)
	m.publish(0, stream, manyKeys, "without")
	m.onlyMoved(before, m.where(stream), 2)
	if err := m.brokers[2].Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.agree(stream, 6, 15*time.Second, m.proxies...)
	m.publish(0, stream, manyKeys, "after")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys did not return", len(k))
	}
}

// TestManyDeleteWhileAway: what was deleted while a node was away is not brought
// back by its state file.
func TestManyDeleteWhileAway(t *testing.T) { both(t, testManyDeleteWhileAway) }

func testManyDeleteWhileAway(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	const stream = "shard.deleted"
	m.declare(0, stream)
	m.agree(stream, 3, 2*time.Second, m.proxies...)
	m.proxies[2].Signal(syscall.SIGKILL)
	m.proxies[2].Wait(5 * time.Second)
	if err := m.channel(0).ExchangeDelete(stream, false, false); err != nil {
		t.Fatal(err)
	}
	m.proxies[2].Boot()
	m.agree(stream, 0, 5*time.Second, m.proxies...)
	ch := m.channel(2)
	if err := ch.ExchangeDeclarePassive(stream, "direct", true, false, false, false, nil); err == nil {
		t.Error("the deleted exchange is there again")
	}
}

// TestManyDeclaresAtOnce: of two declares with different types at the same moment
// on two nodes, one holds everywhere.
func TestManyDeclaresAtOnce(t *testing.T) { both(t, testManyDeclaresAtOnce) }

func testManyDeclaresAtOnce(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	for round := range 5 {
		stream := fmt.Sprintf("shard.race-%d", round)
		kinds := []string{"x-consistent-hash", "x-random"}
		results := make(chan error, len(kinds))
		for i, kind := range kinds {
			ch := m.channel(i)
			go func() { results <- ch.ExchangeDeclare(stream, kind, true, false, false, false, nil) }()
		}
		refused := 0
		for range kinds {
			if err := <-results; err != nil {
				refused++
				if e, ok := err.(*amqp.Error); !ok || e.Code != amqp.PreconditionFailed {
					t.Errorf("round %d: %v, want 406", round, err)
				}
			}
		}
		if refused > 1 {
			t.Errorf("round %d: both declares were refused", round)
		}
		daemon.Eventually(t, 5*time.Second, func() error {
			types := map[string]bool{}
			for _, p := range m.proxies {
				for _, s := range view[streamView](t, p, "streams") {
					if s.Stream == stream {
						types[s.Type] = true
					}
				}
			}
			if len(types) != 1 {
				return fmt.Errorf("round %d: types %v", round, types)
			}
			return nil
		})
	}
}

// TestManyHeal: a shard and a binding that a user removes are there again within
// two seconds.
func TestManyHeal(t *testing.T) { both(t, testManyHeal) }

func testManyHeal(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	const stream = "shard.heal"
	m.declare(0, stream)
	queue := fmt.Sprintf("stream: %s - %s - 0", stream, m.brokers[1].Name())
	conn, err := amqp.Dial(m.brokers[1].URL(m.vhost))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, remove := range map[string]func(*amqp.Channel) error{
		"queue":   func(ch *amqp.Channel) error { _, err := ch.QueueDelete(queue, false, false, false); return err },
		"binding": func(ch *amqp.Channel) error { return ch.QueueUnbind(queue, "amqproxy:"+queue, stream, nil) },
	} {
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := remove(ch); err != nil {
			t.Fatal(err)
		}
		daemon.Eventually(t, 3*time.Second, func() error {
			ch, err := conn.Channel()
			if err != nil {
				return err
			}
			defer ch.Close()
			returns := ch.NotifyReturn(make(chan amqp.Return, 1))
			if err := ch.Confirm(false); err != nil {
				return err
			}
			c, err := ch.PublishWithDeferredConfirm(stream, "amqproxy:"+queue, true, false, amqp.Publishing{})
			if err != nil {
				return err
			}
			c.Wait()
			if len(returns) > 0 {
				return fmt.Errorf("%s: the shard is not bound", name)
			}
			return nil
		})
	}
}

// TestManySecondProxy: a second proxy for the same node refuses to start.
func TestManySecondProxy(t *testing.T) { both(t, testManySecondProxy) }

func testManySecondProxy(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	twin := daemon.New(t, m.config(0, 1)+"\nlog: {level: info}\n")
	twin.Replace(m.gossip[0], "127.0.0.1:0")
	if err := twin.TryBoot(); err == nil {
		t.Fatal("a second proxy of the same node runs")
	}
	if log := twin.Log(); !strings.Contains(log, "another proxy has this node name") {
		t.Errorf("it does not say why:\n%s", log)
	}
}
