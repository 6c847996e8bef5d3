package test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"amqproxy/shard"
	"amqproxy/test/daemon"
)

// TestManyWeight: a node whose definition has another weight gets another share,
// by all proxies alike.
func TestManyWeight(t *testing.T) { bothBeside(t, testManyWeight) }

func testManyWeight(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.weight"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	wantAt(t, predict(stream, manyKeys, m.plain(stream, 2, 0, 1, 2)), before)
	for _, weight := range []uint32{30000, 2500} {
		m.restart(1, "{shards-per-node: 2", fmt.Sprintf("{routing-key: %q, shards-per-node: 2", fmt.Sprint(weight)))
		shards := slices.Concat(m.plain(stream, 2, 0, 2), m.shards(stream, 1, 2, weight))
		m.agreeOn(stream, shards, streamPatience)
		for i := range m.proxies {
			m.publish(i, stream, manyKeys, "after")
			wantAt(t, predict(stream, manyKeys, shards), m.where(stream))
		}
		m.restart(1, fmt.Sprintf("routing-key: %q, ", fmt.Sprint(weight)), "")
		m.agreeOn(stream, m.plain(stream, 2, 0, 1, 2), streamPatience)
	}
	m.publish(2, stream, manyKeys, "again")
	if k := moved(before, m.where(stream)); len(k) > 0 {
		t.Errorf("%d keys did not return", len(k))
	}
}

// TestManyMoreShards: a node that is to have one more shard has it in use when it
// takes clients again, and exactly that shard's keys move.
func TestManyMoreShards(t *testing.T) { bothBeside(t, testManyMoreShards) }

func testManyMoreShards(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	const stream = "shard.more"
	m.declare(0, stream)
	m.publish(0, stream, manyKeys, "before")
	before := m.where(stream)
	m.restart(1, "shards-per-node: 2", "shards-per-node: 3")
	shards := slices.Concat(m.plain(stream, 2, 0, 2), m.shards(stream, 1, 3, shard.DefaultWeight))
	m.agreeOn(stream, shards, streamPatience)
	third := shard.QueueName(shard.DefaultPrefix, stream, m.brokers[1].Name(), 2)
	for i := range m.proxies {
		m.publish(i, stream, manyKeys, "after")
		after := m.where(stream)
		wantAt(t, predict(stream, manyKeys, shards), after)
		for _, k := range moved(before, after) {
			if after[k] != third {
				t.Errorf("%s moved from %s to %s, which is not the new shard", k, before[k], after[k])
			}
		}
	}
}

// restart stops proxy i in order and starts it with other configuration.
func (m *many) restart(i int, old, new string) {
	m.t.Helper()
	if code := m.proxies[i].Stop(20 * time.Second); code != 0 {
		m.t.Errorf("the proxy ended with code %d", code)
	}
	m.proxies[i].Replace(old, new)
	m.proxies[i].Boot()
}

// agreeOn waits until all proxies have the table that these shards make.
func (m *many) agreeOn(stream string, shards []shard.Shard, within time.Duration) {
	m.t.Helper()
	want := shard.NewTable("", stream, &shard.Settings{}, shard.Declared{}, shards, nil).Digest()
	daemon.Eventually(m.t, within, func() error {
		for i := range m.proxies {
			if got := m.tables(i)[stream]; got.Digest != want {
				return fmt.Errorf("proxy %d has %+v, want digest %s of %d shards", i, got, want, len(shards))
			}
		}
		return nil
	})
}

// TestManyConverge: two seconds after the last of any events the tables of all
// proxies are the same.
func TestManyConverge(t *testing.T) { both(t, testManyConverge) }

func testManyConverge(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	var streams []string
	converge := func(what string, shards int, proxies ...int) {
		t.Helper()
		began := time.Now()
		m.complete(streams, shards, 2*time.Second, proxies...)
		t.Logf("%s: %s", what, time.Since(began))
	}
	together := func(count int, do func(i int)) {
		done := make(chan bool, count)
		for i := range count {
			go func() { defer func() { done <- true }(); do(i) }()
		}
		for range count {
			<-done
		}
	}

	for s := range 9 {
		streams = append(streams, fmt.Sprintf("shard.converge-%d", s))
	}
	channels := m.channels(9)
	together(9, func(i int) {
		if err := channels[i].ExchangeDeclare(streams[i], "direct", true, false, false, false, nil); err != nil {
			t.Error(err)
		}
	})
	converge("nine declares at once", 3, 0, 1, 2)

	together(3, func(i int) {
		if err := channels[i].ExchangeDelete(streams[i], false, false); err != nil {
			t.Error(err)
		}
	})
	gone := streams[:3]
	streams = streams[3:]
	converge("three deletes at once", 3, 0, 1, 2)

	together(9, func(i int) {
		if err := channels[i].ExchangeDeclare(gone[i%3], "direct", true, false, false, false, nil); err != nil {
			t.Error(err)
		}
	})
	streams = slices.Concat(gone, streams)
	converge("declares of each by all", 3, 0, 1, 2)

	m.proxies[0].Kill()
	m.proxies[0].Boot()
	converge("a crash and a return", 3, 0, 1, 2)
	m.proxies[1].Stop(20 * time.Second)
	converge("an orderly stop", 2, 0, 2)
	m.proxies[1].Boot()
	converge("its return", 3, 0, 1, 2)
	for _, p := range m.proxies[:2] {
		p.Signal(syscall.SIGTERM)
	}
	for _, p := range m.proxies[:2] {
		p.Wait(20 * time.Second)
	}
	converge("two stops at once", 1, 2)
	m.boot(0, 1)
	converge("two starts at once", 3, 0, 1, 2)
}
