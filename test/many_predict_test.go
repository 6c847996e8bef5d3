package test

import (
	"maps"
	"slices"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
)

// shards are node i's shards of a stream, as its configuration has them.
func (m *many) shards(stream string, i, count int, weight uint32) (all []shard.Shard) {
	for index := range count {
		node := m.brokers[i].Name()
		all = append(all, shard.Shard{Queue: shard.QueueName(shard.DefaultPrefix, stream, node, index), Node: node, Index: index, Weight: weight})
	}
	return all
}

// plain are the shards of some nodes with the default weight, perNode on each.
func (m *many) plain(stream string, perNode int, nodes ...int) (all []shard.Shard) {
	for _, i := range nodes {
		all = append(all, m.shards(stream, i, perNode, shard.DefaultWeight)...)
	}
	return all
}

// predict is the queue of every key by the pure function.
func predict(stream string, keys int, shards []shard.Shard) map[string]string {
	table := shard.NewTable("", stream, &shard.Settings{}, shard.Declared{}, shards, nil)
	at := map[string]string{}
	for k := range keys {
		at[key(k)] = table.Shards[table.Pick(shard.KeyHash([]byte(key(k))))].Queue
	}
	return at
}

// evenly is predict for the first keys of which each shard has as many as any other.
func evenly(stream string, keys int, shards []shard.Shard) map[string]string {
	table := shard.NewTable("", stream, &shard.Settings{}, shard.Declared{}, shards, nil)
	each, has := keys/len(shards), map[string]int{}
	at := map[string]string{}
	for k := 0; len(at) < each*len(shards); k++ {
		queue := table.Shards[table.Pick(shard.KeyHash([]byte(key(k))))].Queue
		if has[queue] < each {
			has[queue]++
			at[key(k)] = queue
		}
	}
	return at
}

// wantAt checks that exactly these keys are stored, each where it is predicted.
func wantAt(t *testing.T, predicted, found map[string]string) {
	t.Helper()
	wrong := 0
	for _, k := range slices.Sorted(maps.Keys(predicted)) {
		if found[k] != predicted[k] {
			if wrong++; wrong <= 5 {
				t.Errorf("%s is in %q, predicted is %q", k, found[k], predicted[k])
			}
		}
	}
	if wrong > 0 || len(found) != len(predicted) {
		t.Errorf("%d of %d keys are not where they are predicted; %d are stored", wrong, len(predicted), len(found))
	}
}

// spread empties shards, straight from a broker, and counts the
// messages of every key in every queue.
func (m *many) spread(shards []shard.Shard) map[string]map[string]int {
	m.t.Helper()
	found := map[string]map[string]int{}
	for _, s := range shards {
		conn, err := amqp.Dial(m.serving(s.Node, 0).URL(m.vhost))
		if err != nil {
			m.t.Fatal(err)
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			m.t.Fatal(err)
		}
		held, err := ch.QueueDeclarePassive(s.Queue, true, false, false, false, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		messages, err := ch.Consume(s.Queue, s.Queue, true, false, false, false, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		for range held.Messages {
			d, open := <-messages
			if !open {
				m.t.Fatalf("the broker closed the channel while %s was read", s.Queue)
			}
			if found[d.RoutingKey] == nil {
				found[d.RoutingKey] = map[string]int{}
			}
			found[d.RoutingKey][s.Queue]++
		}
		if err := ch.Cancel(s.Queue, false); err != nil {
			m.t.Fatal(err)
		}
	}
	return found
}
