package shard

import (
	"cmp"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Member is one consumer of a group: all that consume one stream.
type Member struct {
	ID   string // unlike any other's
	Node string // whose proxy it is connected to
}

// Assignment tells who is to read each shard, by queue name: members' IDs in order. A shard
// that nobody is to read is not in it.
type Assignment map[string][]string

// Assign shares shards out among the members of a group. It depends on nothing but what it
// is given, in whatever order that comes, so that all who know the same assign the same.
//
// Every shard has a member as long as there is any, and what members read differs by one
// shard at most. With more members than shards the others share shards evenly too, unless
// the group is ordered: then each shard has one member, and the others stand by.
//
// held is who reads each shard now. As many shards as balance allows stay with one who does;
// of the others, one goes to a member on its own node, if that can be.
func Assign(shards []Shard, members []Member, held Assignment, ordered bool) Assignment {
	if len(shards) == 0 || len(members) == 0 {
		return Assignment{}
	}
	a := newAssigner(shards, members, held)
	if len(members) < len(shards) {
		a.share()
	} else {
		a.spread(ordered)
	}
	return a.result()
}

type assigner struct {
	shards  []Shard  // by queue name
	members []Member // by ID
	holders [][]int  // of each shard, members
	of      [][]int  // of each shard, who is to read it
	load    []int    // of each member
	seeds   []uint64 // of the shards' names
	ids     []uint64 // hashes of the members' IDs
}

func newAssigner(shards []Shard, members []Member, held Assignment) *assigner {
	a := &assigner{
		shards:  slices.SortedFunc(slices.Values(shards), func(a, b Shard) int { return cmp.Compare(a.Queue, b.Queue) }),
		members: slices.SortedFunc(slices.Values(members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) }),
		holders: make([][]int, len(shards)), of: make([][]int, len(shards)), load: make([]int, len(members)),
	}
	index := make(map[string]int, len(members))
	for i, m := range a.members {
		index[m.ID] = i
		a.ids = append(a.ids, xxhash.Sum64String(m.ID))
	}
	for i, s := range a.shards {
		a.seeds = append(a.seeds, seed(s.Queue))
		for _, id := range slices.Compact(slices.Sorted(slices.Values(held[s.Queue]))) {
			if m, there := index[id]; there {
				a.holders[i] = append(a.holders[i], m)
			}
		}
	}
	return a
}

// share gives each shard to one of fewer members: to each least of them, to some one more.
func (a *assigner) share() {
	least, more := len(a.shards)/len(a.members), len(a.shards)%len(a.members)
	keeps := make([][]int, len(a.members)) // shards that each could keep
	for i, holders := range a.holders {
		if len(holders) > 0 { // of several who share it, in a group that was larger, one
			m := slices.MinFunc(holders, func(x, y int) int { return cmp.Compare(len(keeps[x]), len(keeps[y])) })
			keeps[m] = append(keeps[m], i)
		}
	}
	for m, own := range keeps {
		slices.SortStableFunc(own, func(x, y int) int { return cmp.Compare(a.apart(x, m), a.apart(y, m)) })
		n := min(len(own), least)
		if len(own) > least && more > 0 {
			n++
			more--
		}
		for _, i := range own[:n] {
			a.give(i, m)
		}
	}
	a.fill(least, more)
}

// fill gives the shards that nobody has to members with room: first those that have one on
// their own node.
func (a *assigner) fill(least, more int) {
	for _, anywhere := range []bool{false, true} {
		for i := range a.shards {
			if len(a.of[i]) > 0 {
				continue
			}
			best := -1
			for m := range a.members {
				room := a.load[m] < least || a.load[m] == least && more > 0
				if room && (anywhere || a.apart(i, m) == 0) && (best < 0 || a.before(i, m, best)) {
					best = m
				}
			}
			if best < 0 {
				continue
			}
			if a.load[best] == least {
				more--
			}
			a.give(i, best)
		}
	}
}

// before tells whether a shard goes to member m rather than to n: who has less, and of
// equals any, but always the same.
func (a *assigner) before(shard, m, n int) bool {
	if a.load[m] != a.load[n] {
		return a.load[m] < a.load[n]
	}
	return a.score(shard, m) < a.score(shard, n)
}

func (a *assigner) score(shard, member int) uint64 { return mix(a.seeds[shard] ^ a.ids[member]) }

// apart is 0 for a member on the shard's own node, and 1 for others.
func (a *assigner) apart(shard, member int) int {
	if a.shards[shard].Node == a.members[member].Node {
		return 0
	}
	return 1
}

func (a *assigner) give(shard, member int) {
	a.of[shard] = append(a.of[shard], member)
	a.load[member]++
}

// spread gives each of at least as many members one shard, or in an ordered group none.
func (a *assigner) spread(ordered bool) {
	for shard, m := range a.keepOneEach() {
		if m >= 0 {
			a.give(shard, m)
		}
	}
	a.fill(1, 0) // the shards that nobody has
	if ordered {
		return
	}
	least, more := len(a.members)/len(a.shards), len(a.members)%len(a.shards)
	for shard, holders := range a.holders { // who shares a shard stays there
		for _, m := range holders {
			if n := len(a.of[shard]); a.load[m] == 0 && (n < least || n == least && more > 0) {
				if n == least {
					more--
				}
				a.give(shard, m)
			}
		}
	}
	for m := range a.members {
		if a.load[m] == 0 {
			best := -1
			for i := range a.shards {
				if best < 0 || a.emptier(i, best, m) {
					best = i
				}
			}
			a.give(best, m)
		}
	}
}

// emptier tells whether member m joins shard i rather than j.
func (a *assigner) emptier(i, j, m int) bool {
	if n := cmp.Or(len(a.of[i])-len(a.of[j]), a.apart(i, m)-a.apart(j, m)); n != 0 {
		return n < 0
	}
	return a.score(i, m) < a.score(j, m)
}

// keepOneEach finds for as many shards as can be one of their holders, no member twice:
// a maximum matching, by augmenting paths.
func (a *assigner) keepOneEach() (keeper []int) {
	keeper = make([]int, len(a.shards))
	of := make([]int, len(a.members)) // the shard that a member keeps; -1
	for m := range of {
		of[m] = -1
	}
	for i := range keeper {
		keeper[i] = -1
	}
	seen := make([]int, len(a.members)) // the round in which a member was looked at
	var find func(shard, round int) bool
	find = func(shard, round int) bool {
		for _, m := range a.holders[shard] {
			if seen[m] == round {
				continue
			}
			seen[m] = round
			if of[m] < 0 || find(of[m], round) {
				of[m], keeper[shard] = shard, m
				return true
			}
		}
		return false
	}
	for shard := range a.shards {
		find(shard, shard+1)
	}
	for shard, m := range keeper { // what was taken over on a path belongs to another now
		if m >= 0 && of[m] != shard {
			keeper[shard] = -1
		}
	}
	return keeper
}

func (a *assigner) result() Assignment {
	out := make(Assignment, len(a.shards))
	for i, s := range a.shards {
		for _, m := range a.of[i] {
			out[s.Queue] = append(out[s.Queue], a.members[m].ID)
		}
		slices.Sort(out[s.Queue])
	}
	maps.DeleteFunc(out, func(_ string, ids []string) bool { return len(ids) == 0 })
	return out
}
