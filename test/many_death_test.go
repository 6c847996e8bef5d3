package test

import (
	"fmt"
	"testing"
	"time"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// TestManyNodeDies: a broker and its proxy die at the same moment. The others
// notice that the proxy is silent and that its broker does not answer, and do not
// wait for its return: its keys go to the next shard and everyone else's stay.
// When both are back they return.
func TestManyNodeDies(t *testing.T) { both(t, testManyNodeDies) }

func testManyNodeDies(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.dies"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	wantAt(t, predict(stream, manyKeys, m.plain(stream, 2, 0, 1, 2)), before)
	if err := m.brokers[2].Sync(t.Context()); err != nil { // or the queues may be gone with it
		t.Fatal(err)
	}
	dead := make(chan bool)
	go func() { m.brokers[2].Kill(); close(dead) }()
	m.proxies[2].Kill()
	<-dead
	died := time.Now()
	m.agree(stream, 4, 15*time.Second, m.proxies[:2]...)
	t.Logf("its shards left the tables after %s", time.Since(died))
	m.publish(1, stream, manyKeys, "without")
	after := m.where(stream, 0)
	m.onlyMoved(before, after, 2)
	wantAt(t, predict(stream, manyKeys, m.plain(stream, 2, 0, 1)), after)

	// The proxy is back first, and must not have its shards used: the broker would
	// confirm what it drops.
	c := m.startCrowd(stream, crowdKeys, 0, 1)
	c.another(0, 1)
	m.proxies[2].Boot()
	c.another(0, 1)
	c.end()
	rest := m.plain(stream, 2, 0, 1)
	m.onlyAt(stream, crowdKeys, rest, predict(stream, crowdKeys, rest))
	if err := m.brokers[2].Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	m.agree(stream, 6, 20*time.Second, m.proxies...)
	t.Logf("they were there again after %s", time.Since(back))
	m.publish(2, stream, manyKeys, "after")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys did not return", len(k))
	}
}

// TestManyUnreachableBroker: what the others think of a silent node's broker counts
// for as long as it is silent. When its proxy is back, its own word holds.
func TestManyUnreachableBroker(t *testing.T) { both(t, testManyUnreachableBroker) }

func testManyUnreachableBroker(t *testing.T, on *threeBrokers) {
	m := newMany(t, on, 1, "")
	nowhere := broker.Address(t) // where nobody listens
	m.proxies[2].Replace("\ngossip: ", fmt.Sprintf("\nbroker-advertise: %s\ngossip: ", nowhere))
	m.boot(0, 1, 2)
	const stream = "shard.unreachable"
	m.declare(0, stream)
	m.agree(stream, 3, 2*time.Second, m.proxies...)
	for range 2 {
		m.proxies[2].Kill()
		m.agree(stream, 2, 15*time.Second, m.proxies[:2]...)
		m.proxies[2].Boot()
		m.agree(stream, 3, 2*time.Second, m.proxies...)
	}
}

// TestManyForgottenStop: a node that stopped in order, and then starts alone and
// without its state, is in use again when the others are there, who remember it as
// stopped.
func TestManyForgottenStop(t *testing.T) { both(t, testManyForgottenStop) }

func testManyForgottenStop(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "limits: {join-timeout: 500ms}")
	const stream = "shard.stopped"
	m.declare(0, stream)
	m.agree(stream, 3, 2*time.Second, m.proxies...)
	if code := m.proxies[2].Stop(20 * time.Second); code != 0 {
		t.Errorf("the proxy ended with code %d", code)
	}
	m.agree(stream, 2, 2*time.Second, m.proxies[:2]...)
	m.proxies[0].Kill()
	m.proxies[1].Kill()
	m.proxies[2].Forget()
	m.proxies[2].Boot()
	m.boot(0, 1)
	m.agree(stream, 3, 5*time.Second, m.proxies...)
	daemon.Eventually(t, 2*time.Second, func() error {
		for i, p := range m.proxies {
			for _, member := range view[memberView](t, p, "members") {
				if member.Presence != "alive" || member.Condition != "running" {
					return fmt.Errorf("to proxy %d, %s is %s and %s", i, member.Node, member.Presence, member.Condition)
				}
			}
		}
		return nil
	})
	m.publish(2, stream, 60, "x")
	wantAt(t, predict(stream, 60, m.plain(stream, 1, 0, 1, 2)), m.where(stream))
}
