package test

import (
	"fmt"
	"testing"
	"time"

	"amqproxy/shard"
	"amqproxy/test/daemon"
)

// TestManyGroupShardsChange: a shard that is added is read by the group, and one that is
// retired is read to its end and deleted, while messages flow; no consumer is told anything.
func TestManyGroupShardsChange(t *testing.T) { both(t, testManyGroupShardsChange) }

func testManyGroupShardsChange(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	for _, mode := range groupModes {
		f := g.flow(mode, "change", 100)
		readers := []*reader{f.join(0, 20), f.join(2, 20)}
		f.shared(f.stream, []int{0, 1, 2}, 3, 3)
		f.produce(0, groupPace)
		f.another(2)
		f.unordered() // from here on keys move from shard to shard

		g.restart(1, "  "+mode+": {shards-per-node: 2", "  "+mode+": {shards-per-node: 3")
		third := shard.QueueName(shard.DefaultPrefix, f.stream, g.brokers[1].Name(), 2)
		if owners := f.shared(f.stream, []int{0, 1, 2}, 4, 3); owners[third] == nil {
			t.Errorf("nobody reads %s", third)
		}
		f.another(3)

		g.restart(1, "  "+mode+": {shards-per-node: 3", "  "+mode+": {shards-per-node: 1")
		f.shared(f.stream, []int{0, 1, 2}, 3, 2)
		f.another(3)
		f.end()
		f.verdict(t, false)
		for i := 1; i <= 2; i++ {
			queue := shard.QueueName(shard.DefaultPrefix, f.stream, g.brokers[1].Name(), i)
			daemon.Eventually(t, streamPatience, func() error {
				q, err := g.atBroker(queue)
				if err == nil {
					return fmt.Errorf("%s is there with %d messages and %d consumers", queue, q.Messages, q.Consumers)
				}
				streamWantError(t, err, 404)
				return nil
			})
		}
		for _, r := range readers {
			r.undisturbed(t)
			r.leave()
		}
	}
}

// TestManyGroupNodeJoins: a group that reads the shards of two nodes reads those of a third
// when it joins, and a consumer at that node takes its part.
func TestManyGroupNodeJoins(t *testing.T) { both(t, testManyGroupNodeJoins) }

func testManyGroupNodeJoins(t *testing.T, on *threeBrokers) {
	g := newGroups(t, on, 2, "", "")
	g.boot(0, 1)
	flows := map[string]*flow{}
	for _, mode := range groupModes {
		f := &flow{groups: g, stream: mode + ".joins", keys: 100}
		g.declare(0, f.stream)
		g.agree(f.stream, 4, 5*time.Second, g.proxies[:2]...)
		f.ledger = newLedger(predict(f.stream, f.keys, g.all(f.stream)))
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
