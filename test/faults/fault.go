package main

import (
	"context"
	"time"
)

// fault is something that goes wrong, and how it is put right.
type fault struct {
	name  string
	hits  part
	do    func(context.Context, *run) error
	hold  time.Duration                     // until it is put right
	undo  func(context.Context, *run) error // nil: it ends by itself
	idle  int                               // queues on the victim that nobody uses
	kill  bool                              // counts only if enough was unconfirmed on the victim
	short bool                              // belongs to the short form
	order bool                              // nothing may come out of order to a group
	group bool                              // only with groups
}

// part is what a fault takes away.
type part int

const (
	nothing part = iota // that another client would notice
	oneProxy
	oneShard
	oneBroker
	everything
)

// enough is how many publishes have to be unconfirmed on a victim when it is killed:
// the death of a broker that has nothing to do proves nothing.
const enough = 500

const brokerKilled = "broker SIGKILL"

var faults = []fault{
	{name: brokerKilled, hits: oneBroker, do: killBroker, hold: 3 * time.Second, undo: bootBroker, kill: true, short: true, order: true},
	{name: "broker shutdown", hits: oneBroker, do: stopBroker, hold: 3 * time.Second, undo: bootBroker, short: true, order: true},
	{name: "broker SIGKILL, 1500 idle queues", hits: oneBroker, do: killBroker, hold: 3 * time.Second, undo: bootBroker, kill: true, idle: 1500, order: true},
	{name: "broker SIGSTOP 5 s", hits: oneBroker, do: pauseBroker, hold: 5 * time.Second, undo: resumeBroker},
	{name: "broker SIGSTOP 30 s", hits: oneBroker, do: pauseBroker, hold: 30 * time.Second, undo: resumeBroker},
	{name: "proxy SIGKILL", hits: oneProxy, do: killProxy, hold: 3 * time.Second, undo: bootProxy, kill: true, short: true, order: true},
	{name: "consumer SIGKILL", hits: nothing, do: killConsumers, hold: 3 * time.Second, short: true, order: true, group: true},
	{name: "client SIGKILL in mid-content", hits: nothing, do: killClients, order: true},
	{name: "shard deleted by a user", hits: oneShard, do: deleteShard, hold: 3 * time.Second, short: true},
	{name: "memory alarm", hits: everything, do: raiseAlarm, hold: 5 * time.Second, undo: clearAlarm},
}
