//go:build !race

package shard

// slower is what the race detector costs.
const slower = 1
