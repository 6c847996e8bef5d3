// Package node is what this node knows and does. It turns the facts that nodes
// tell each other, and the view of who is alive, into the Snapshot that sessions
// route by and into the work that has to be done on this node's own broker.
//
// It owns the state file, this node's facts, the state of every stream here, the
// watch over brokers, and the loop that tries again what the keeper could not do.
// It must never be asked anything per message: sessions read a Snapshot, and come
// here with errands only.
//
//	facts.go    what nodes tell each other, documented beside its types
//	table.go    facts and presence → tables; pure
//	node.go     the loop
//	stream.go   a stream on this node: making, proving, healing its shards
//	retire.go   shards that are wanted no more, until they are empty and deleted
//	quorum.go   which quorum shards of other nodes are led
//	far.go      brokers that are in no cluster with this node's
//	group.go    who reads which shard, where the consumers are a group
//	errand.go   what sessions want of a stream's exchange
//	queue.go    what sessions want of its queues
//	broker.go   who is up
//	state.go    what is remembered over a restart
package node
