package main

import (
	"context"
	"fmt"
)

const (
	stream  = "shard.faults"
	nodes   = 3
	perNode = 2 // shards
	keys    = 600
)

func routingKey(k int) string { return fmt.Sprintf("key-%d", k) }

// path is a way to a stream.
type path interface {
	name() string
	vhost() string
	// entrances are where publishers connect, while a node is the victim.
	entrances(victim int) []entrance
	// exit is where the consumers of a node's shards connect.
	exit(node int) string
	homes() *homes
	shardOf(node, index int) string
	// settle waits until all shards are in use.
	settle(context.Context) error
	// away are the keys that are not sent home at this moment.
	away(context.Context) []int
}

// entrance is where a publisher connects: a URL, and the node that it belongs to.
type entrance struct {
	url  string
	node int
}

// homes is where each key goes while nothing is wrong. Keys of one group share
// their fate: they are those of a shard, or, where more is not known, of a node.
type homes struct {
	group []int    // by key
	node  []int    // by group
	names []string // by group
}

// struck tells which groups a fault on a victim takes away.
func (h *homes) struck(hits part, victim int) []bool {
	struck := make([]bool, len(h.node))
	for g, node := range h.node {
		struck[g] = hits == everything || node == victim && (hits == oneBroker || hits == oneShard)
	}
	return struck
}
