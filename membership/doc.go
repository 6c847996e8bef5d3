// Package membership knows who is alive and what nodes tell each other. It is a
// layer over memberlist: who is alive comes from its probes, and all else are
// facts, one last-writer-wins map that every node holds whole.
//
// It owns the gossip sockets, the map of facts, the memory of lost members and
// the loop that joins again, for ever: memberlist gives a lost member up after
// half a minute, and a split that lasted longer would stay.
//
// It must never decide anything: it says who was heard of when, and what was
// said. Gossip is a hint; nothing may depend on two proxies agreeing.
//
// memberlist calls its delegates under locks of its own. They copy, poke a
// channel and return; one goroutine, Run, makes of it an immutable State.
package membership
