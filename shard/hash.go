package shard

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// HashVersion names the function from key to shard that this file computes. The
// function is a contract: a key stays on its shard through upgrades and on every
// architecture, so it uses integers only, and any change of a result needs a new
// version and a way to migrate.
//
// Version 1 is weighted rendezvous hashing. For every shard
//
//	u = mix(xxhash64(key) XOR xxhash64(queue name))
//
// is a uniform 64-bit number; taken as a fraction of 2^64 it gives the score
// -log2(u) / weight, and the lowest score wins. It depends on nothing but names
// and weights, so a shard that leaves moves its own keys only, each to the shard
// that came second for it, and its return brings them back.
const HashVersion = 1

// KeyHash is the hash of a key, to be used with Table.Pick.
func KeyHash(key []byte) uint64 { return xxhash.Sum64(key) }

// seed is the hash of a queue name.
func seed(queue string) uint64 { return xxhash.Sum64String(queue) }

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection that
// spreads every input bit over all output bits.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xBF58476D1CE4E5B9
	x ^= x >> 27
	x *= 0x94D049BB133111EB
	return x ^ x>>31
}

// The negative logarithm is a fixed-point number with 32 bits behind the point,
// from 0 for u near 2^64 to 64<<32 for u = 0, found by linear interpolation in a
// table of 1024 steps. The table's error of 2^-22 shifts a weight's share by less
// than one part in a million.
const (
	logBits  = 10
	logPoint = 32
)

var logTable = makeLogTable()

// makeLogTable computes log2(1 + i/1024) bit by bit, by squaring, in integers.
func makeLogTable() [1<<logBits + 1]uint64 {
	var t [1<<logBits + 1]uint64
	for i := range t {
		if i == 1<<logBits {
			t[i] = 1 << logPoint
			break
		}
		m := uint64(1<<logBits+i) << (63 - logBits) // 1.63 fixed point, in [1, 2)
		for b := logPoint - 1; b >= 0; b-- {
			hi, lo := bits.Mul64(m, m) // 2.126
			if hi>>63 != 0 {
				t[i] |= 1 << b
				m = hi
			} else {
				m = hi<<1 | lo>>63
			}
		}
	}
	return t
}

// negLog is -log2(u / 2^64). It never rises with u, so that for equal weights the
// highest u has the lowest score.
func negLog(u uint64) uint64 {
	if u == 0 {
		return 64 << logPoint
	}
	zeros := bits.LeadingZeros64(u)
	m := u << zeros << 1 // the fraction behind the leading 1
	i := m >> (64 - logBits)
	part := m << logBits >> 32 // 32 bits of the way to the next step
	log := logTable[i] + (logTable[i+1]-logTable[i])*part>>32
	return uint64(zeros+1)<<logPoint - log
}
