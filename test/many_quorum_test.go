package test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"amqproxy/test/daemon"
)

// TestManyQuorum: quorum shards stay in the tables when their node's broker dies, and
// no key moves; when too few brokers are left to lead them they leave, and they
// return with their leaders.
func TestManyQuorum(t *testing.T) {
	m := newMany(t, inCluster, 1, "")
	for _, p := range m.proxies {
		p.Replace("{shards-per-node: 1}", "{shards-per-node: 1, queue-arguments: {x-queue-type: quorum}}")
	}
	m.boot(0, 1, 2)
	const stream = "shard.quorum"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	for _, n := range m.brokers {
		if err := n.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m.brokers[2].Kill()
	daemon.Eventually(t, streamPatience, func() error { return m.saysDown(0, 2) })
	m.agree(stream, 3, streamPatience, m.proxies...)
	m.publish(0, stream, manyKeys, "led elsewhere")
	m.agree(stream, 3, time.Second, m.proxies[:2]...)
	if k := moved(before, m.where(stream, 0, 1)); len(k) > 0 {
		t.Errorf("%d keys moved", len(k))
	}
	m.brokers[1].Kill()
	m.agree(stream, 1, streamPatience, m.proxies[0])
	booted := make(chan error, 2)
	for _, n := range m.brokers[1:] {
		go func() { booted <- n.Boot(t.Context()) }()
	}
	if err := errors.Join(<-booted, <-booted); err != nil {
		t.Fatal(err)
	}
	m.agree(stream, 3, 2*streamPatience, m.proxies...)
	m.publish(1, stream, manyKeys, "after")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys did not return", len(k))
	}
}

// saysDown tells whether proxy i knows that the broker of node j is down.
func (m *many) saysDown(i, j int) error {
	for _, s := range view[struct{ Node, Condition string }](m.t, m.proxies[i], "members") {
		if s.Node == m.brokers[j].Name() && strings.Contains(s.Condition, "down") {
			return nil
		}
	}
	return fmt.Errorf("proxy %d has not heard that broker %d is down", i, j)
}
