// Package node is what this node knows and does: which streams there are, which
// of their shards are ready, and how many consumers sit on each. It turns that
// into the Snapshot that sessions route by, and runs the sessions' errands
// through the keeper.
//
// It owns the state file, the streams' states, and the loop that tries again
// what the keeper could not do. It must never be asked anything per message:
// sessions read a Snapshot, and come here with errands only.
package node
