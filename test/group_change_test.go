package test

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
	"amqproxy/test/daemon"
)

// TestManyGroupShardsChange: a shard that is added is read by the group, and one that is
// retired is read to its end and deleted, while messages flow; no consumer is told anything.
func TestManyGroupShardsChange(t *testing.T) { bothBeside(t, testManyGroupShardsChange) }

func testManyGroupShardsChange(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	var flows []*flow
	var readers []*reader
	for _, mode := range groupModes {
		f := g.flow(mode, "change", 30)
		flows, readers = append(flows, f), append(readers, f.join(0, 20), f.join(2, 20))
		f.produce(0, groupPace)
		f.unordered() // keys move from shard to shard
	}
	all := func(loads ...int) {
		t.Helper()
		for _, f := range flows {
			f.shared(f.stream, []int{0, 1, 2}, loads...)
			f.another(3)
		}
	}
	all(3, 3)
	g.restart(1, "d: {shards-per-node: 2", "d: {shards-per-node: 3") // of both modes
	all(4, 3)
	for _, f := range flows {
		q, err := g.atBroker(changed(f, 2))
		sessionMust(t, err)
		if q.Consumers != 1 {
			t.Errorf("%s has %d consumers", q.Name, q.Consumers)
		}
	}
	g.restart(1, "d: {shards-per-node: 3", "d: {shards-per-node: 1")
	all(3, 2)
	for _, f := range flows {
		f.end()
		f.verdict(t, false)
		for i := 1; i <= 2; i++ {
			daemon.Eventually(t, streamPatience, func() error {
				q, err := g.atBroker(changed(f, i))
				if err == nil {
					return fmt.Errorf("%s is there with %d messages and %d consumers", q.Name, q.Messages, q.Consumers)
				}
				streamWantError(t, err, amqp.NotFound)
				return nil
			})
		}
	}
	for _, r := range readers {
		r.undisturbed(t)
		r.leave()
	}
}

// changed is a shard of the node whose number of shards changes.
func changed(f *flow, i int) string {
	return shard.QueueName(shard.DefaultPrefix, f.stream, f.brokers[1].Name(), i)
}

// TestManyGroupNodeJoins: a group that reads the shards of two nodes reads those of a third
// when it joins, and a consumer at that node takes its part.
func TestManyGroupNodeJoins(t *testing.T) { bothBeside(t, testManyGroupNodeJoins) }

func testManyGroupNodeJoins(t *testing.T, on *threeBrokers) {
	g := newGroups(t, on, 2, "", "")
	g.boot(0, 1)
	flows := map[string]*flow{}
	for _, mode := range groupModes {
		f := &flow{groups: g, stream: mode + ".joins", keys: 36}
		g.declare(0, f.stream)
		g.agree(f.stream, 4, groupPatience, g.proxies[:2]...)
		f.ledger = newLedger(evenly(f.stream, f.keys, g.all(f.stream)))
		f.join(0, 20)
		f.join(1, 20)
		f.shared(f.stream, []int{0, 1}, 2, 2)
		f.produce(0, groupPace)
		f.another(2)
		f.unordered() // keys move to the new shards
		flows[mode] = f
	}
	g.boot(2)
	for _, mode := range groupModes {
		f := flows[mode]
		f.shared(f.stream, []int{0, 1, 2}, 3, 3)
		f.another(2)
		f.mark()
		f.covered(t, f.shards(2)...)
		f.join(2, 20)
		f.shared(f.stream, []int{0, 1, 2}, 2, 2, 2)
		f.another(2)
		f.end()
		f.verdict(t, false)
	}
}
