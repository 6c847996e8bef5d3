// Package shard knows where the messages of a stream go. It is pure: policies
// and definitions, the names of queues and bindings, the hash, and the Table, an
// immutable snapshot of where the shards of every stream are.
//
// It owns the answer to "is this name a stream, and which shard takes this key?"
// It must never do I/O, keep a clock, or change a Table that has been given out:
// a new state of affairs is a new Table.
//
// The hash is part of the project's contract with its users (a key must stay on
// its shard through upgrades): testdata/vectors.txt holds golden vectors, and
// hash.go says what may never change.
package shard
