package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// tables is what each stream's table is by one proxy.
func (m *many) tables(i int) map[string]streamView {
	m.t.Helper()
	all := map[string]streamView{}
	for _, s := range view[streamView](m.t, m.proxies[i], "streams") {
		all[s.Stream] = streamView{Stream: s.Stream, Digest: s.Digest, Shards: s.Shards}
	}
	return all
}

// complete waits until these proxies have the same table of every stream, with so
// many shards each.
func (m *many) complete(streams []string, shards int, within time.Duration, proxies ...int) {
	m.t.Helper()
	daemon.Eventually(m.t, within, func() error {
		first := m.tables(proxies[0])
		if len(first) != len(streams) {
			return fmt.Errorf("proxy %d has %d streams of %d", proxies[0], len(first), len(streams))
		}
		for _, i := range proxies {
			tables := m.tables(i)
			for _, s := range streams {
				if tables[s] != first[s] || tables[s].Shards != shards {
					return fmt.Errorf("proxy %d has %+v, proxy %d has %+v, want %d shards", i, tables[s], proxies[0], first[s], shards)
				}
			}
		}
		return nil
	})
}

// TestManyJoin: a node that joins has its shards for all streams in use within 2 s,
// and exactly the keys of these shards move to it. It has joined when another
// proxy says that it is alive, which is before it takes clients itself.
func TestManyJoin(t *testing.T) { both(t, testManyJoin) }

func testManyJoin(t *testing.T, on *threeBrokers) {
	const keys = 60
	m := newMany(t, on, 2, "")
	m.boot(0, 1)
	var streams []string
	for s := range 10 {
		streams = append(streams, fmt.Sprintf("shard.join-%d", s))
		m.declare(s%2, streams[s])
	}
	m.complete(streams, 4, 2*time.Second, 0, 1)
	for _, s := range streams {
		m.publish(0, s, keys, "before")
		wantAt(t, predict(s, keys, m.plain(s, 2, 0, 1)), m.where(s))
	}

	booted := make(chan error, 1)
	go func() { booted <- m.proxies[2].TryBoot() }()
	daemon.Eventually(t, 10*time.Second, func() error {
		if !slices.Contains(m.alive(0), m.brokers[2].Name()) {
			return errors.New("the third proxy has not joined")
		}
		return nil
	})
	joined := time.Now()
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	m.complete(streams, 6, 2*time.Second, 0, 1, 2)
	took := time.Since(joined)
	t.Logf("in use %s after it joined", took)
	if took > 2*time.Second {
		t.Errorf("the shards of the third node were in use only after %s", took)
	}

	for i, s := range streams {
		m.publish(i%3, s, keys, "after")
		wantAt(t, predict(s, keys, m.plain(s, 2, 0, 1, 2)), m.where(s))
	}
}

// TestManyFirstClient: a proxy that starts and knows nothing takes no client
// before it has the facts of the others and its own shards. It is so soon there
// again that the others still think that it has never gone.
func TestManyFirstClient(t *testing.T) { bothBeside(t, testManyFirstClient) }

func testManyFirstClient(t *testing.T, on *threeBrokers) {
	const keys = 300
	m := newMany(t, on, 2, "limits: {declare-timeout: 2s}") // a declare waits for the one that is gone
	addr := broker.Address(t)
	m.proxies[2].Replace("\nlisten: 127.0.0.1:0\n", "\nlisten: "+addr+"\n")
	m.boot(0, 1, 2)
	const old, young = "shard.old", "shard.young"
	m.declare(0, old)
	for range 2 {
		m.proxies[2].Kill()
		m.proxies[2].Forget()
		m.declare(1, young)
		booted := make(chan error, 1)
		go func() { booted <- m.proxies[2].TryBoot() }()
		ch := m.earliest(addr)
		for _, stream := range []string{old, young} {
			var messages []streamMessage
			for k := range keys {
				messages = append(messages, streamMessage{exchange: stream, key: key(k)})
			}
			streamPublish(t, ch, messages...)
		}
		if err := <-booted; err != nil {
			t.Fatal(err)
		}
		for _, stream := range []string{old, young} {
			wantAt(t, predict(stream, keys, m.plain(stream, 2, 0, 1, 2)), m.where(stream))
		}
		if err := m.channel(0).ExchangeDelete(young, false, false); err != nil {
			t.Fatal(err)
		}
		m.agree(young, 0, streamPatience, m.proxies...)
	}
}

// earliest opens a confirming channel on the first connection that a proxy takes.
func (m *many) earliest(addr string) *amqp.Channel {
	m.t.Helper()
	giveUp := time.Now().Add(20 * time.Second)
	dial := func(network, addr string) (net.Conn, error) {
		for {
			conn, err := net.Dial(network, addr)
			if err == nil || time.Now().After(giveUp) {
				return conn, err
			}
			time.Sleep(time.Millisecond)
		}
	}
	conn, err := amqp.DialConfig("amqp://"+addr, amqp.Config{Vhost: m.vhost, Dial: dial})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	ch := streamOpen(m.t, conn)
	streamConfirm(m.t, ch)
	return ch
}

// TestManyAnyOrder: three proxies that all were down start in any order, with what
// their state files remember. When the last runs, all route as before.
func TestManyAnyOrder(t *testing.T) { bothBeside(t, testManyAnyOrder) }

func testManyAnyOrder(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "limits: {join-timeout: 1s}")
	streams := []string{"shard.order-a", "shard.order-b"}
	for i, s := range streams {
		m.declare(i, s)
	}
	m.complete(streams, 6, streamPatience, 0, 1, 2)
	before := m.tables(0)
	for round, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for _, p := range m.proxies {
			p.Signal([]os.Signal{syscall.SIGTERM, syscall.SIGKILL}[round%2])
		}
		for _, p := range m.proxies {
			p.Wait(20 * time.Second)
		}
		for _, i := range order {
			m.proxies[i].Boot()
		}
		m.complete(streams, 6, streamPatience, 0, 1, 2)
		if after := m.tables(0); after[streams[0]] != before[streams[0]] || after[streams[1]] != before[streams[1]] {
			t.Errorf("order %v: the tables were %v and are %v", order, before, after)
		}
	}
	for i, s := range streams {
		m.publish(i, s, manyKeys, "after")
		wantAt(t, predict(s, manyKeys, m.plain(s, 2, 0, 1, 2)), m.where(s))
	}
	for i, p := range m.proxies {
		if strings.Contains(p.Log(), `"level":"error"`) {
			t.Errorf("proxy %d has logged errors:\n%s", i, p.Log())
		}
	}
}
