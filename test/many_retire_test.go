package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// perNode restarts proxy i with another number of shards.
func (m *many) perNode(i, before, after int) {
	m.t.Helper()
	m.proxies[i].Stop(streamPatience)
	m.proxies[i].Replace(fmt.Sprintf("{shards-per-node: %d}", before), fmt.Sprintf("{shards-per-node: %d}", after))
	m.proxies[i].Boot()
}

// TestManyRetire: one node has fewer shards than before. Its extra shards leave the
// tables of all, only their keys move, and none is deleted while a client of another
// proxy holds a message of it.
func TestManyRetire(t *testing.T) {
	t.Parallel()
	m := startMany(t, inCluster, 3, "") // apart, no client of another proxy can hold any
	const stream = "shard.fewer"
	m.declare(1, stream)
	m.publish(1, stream, manyKeys, "before")
	before := m.where(stream)
	shard := func(i int) string { return fmt.Sprintf("stream: %s - %s - %d", stream, m.brokers[0].Name(), i) }
	held, other := m.channel(1), m.channel(2)
	for i, ch := range map[int]*amqp.Channel{1: held, 2: other} {
		put := m.channel(0)
		streamConfirm(t, put)
		c, err := put.PublishWithDeferredConfirm("", shard(i), true, false, amqp.Publishing{Body: fmt.Append(nil, i)})
		if err != nil || !c.Wait() {
			t.Fatalf("publish to %s: %v", shard(i), err)
		}
		if d := getOne(t, ch, shard(i)); string(d.Body) != fmt.Sprint(i) {
			t.Fatalf("got %q", d.Body)
		}
	}
	m.perNode(0, 3, 1)
	m.agree(stream, 7, 2*time.Second, m.proxies...)
	for i := range m.proxies {
		m.publish(i, stream, manyKeys, "after")
		for k, q := range m.where(stream) {
			switch was := before[k]; {
			case was == shard(1) || was == shard(2):
				if q == was {
					t.Errorf("proxy %d still sends %s to the retired %s", i, k, q)
				}
			case q != was:
				t.Errorf("through proxy %d %s moved from %s to %s", i, k, was, q)
			}
		}
	}
	gone := func(queue string) error {
		ch := m.channel(0)
		defer ch.Close()
		_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err == nil || !strings.Contains(err.Error(), "no queue") {
			return fmt.Errorf("%s is there still (%v)", queue, err)
		}
		return nil
	}
	for _, s := range view[shardView](t, m.proxies[2], "shards") {
		if s.Ready && (s.Queue == shard(1) || s.Queue == shard(2)) {
			t.Errorf("%s is shown as ready", s.Queue)
		}
	}
	if err := other.Ack(1, false); err != nil {
		t.Fatal(err)
	}
	daemon.Eventually(t, streamPatience, func() error { return gone(shard(2)) })
	if gone(shard(1)) == nil {
		t.Fatal("a shard is gone with what a client of another proxy holds of it")
	}
	if err := held.Nack(1, false, true); err != nil {
		t.Fatal(err)
	}
	reader := m.channel(0)
	daemon.Eventually(t, streamPatience, func() error { // it was about to close
		d, ok, err := reader.Get(stream, true)
		if err == nil && (!ok || string(d.Body) != "1") {
			err = fmt.Errorf("got %q, %v from the retired shard", d.Body, ok)
		}
		return err
	})
	daemon.Eventually(t, streamPatience, func() error { return gone(shard(1)) })
	m.agree(stream, 7, 2*time.Second, m.proxies...)
}
