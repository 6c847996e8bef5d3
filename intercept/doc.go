// Package intercept is what each AMQP method means on a stream. It is pure: no
// socket, goroutine, clock or log. A Conn takes the frames of one session, one at
// a time or as runs of plain messages, and appends to an Out what is to be done.
//
// In: a frame from the client, from the home link or from another link, an errand's
// answer, a new Snapshot, what consumers of groups are to read, a tick with a time, a link
// that is there or is no more, the wish to shut down.
// Out: bytes for the client and for each link, links to open or close, errands, consumers
// that ended, and what those of groups are at.
//
// The words: the *home link* goes to the client's own broker and carries all but what is
// published to the shards of other brokers, which goes over *publish links*. A *leg* is an
// upstream channel that serves a client channel; it has the same number there, so there
// is nothing to map but the numbers of publishes that are confirmed. What consumers of
// groups read comes over *consume links*, to this node's broker too: a *reader* is a channel
// there, which reads one shard for one consumer, and a *feed* is what a client channel has
// that several of them bring messages to. An *errand* is
// something the proxy asks of a broker on a link of its own; while a channel
// waits for one, its further frames are held, and only its.
//
// What a frame's way is, in the order of the files:
//
//	conn.go        which of the two sides, which channel, and the switch of methods
//	tick.go        what must not wait for ever
//	run.go         whole messages like the one before, many at once
//	connection.go  channel 0
//	channel.go     the state of a channel; opening it, holding and resuming
//	publish.go     basic.publish: the shard, and the splice of its key
//	leg.go         by which link and leg it goes, and when one is suspect
//	link.go        further links: opened, lost, tried again, idle
//	park.go        what can't go now waits, or is given up
//	ledger.go      what becomes of publishes to streams, whatever comes back; book.go is
//	               the part of one leg
//	reroute.go     what the broker sends back
//	retry.go       copies of messages, for what it nacks
//	again.go       both are sent again, to another shard
//	confirms.go    which publishes of other channels are not settled yet
//	exchange.go    exchange.* on a stream
//	queue.go       queue.* on a virtual queue
//	consume.go     basic.consume and basic.get on a virtual queue
//	join.go        a consumer joins a group
//	group.go       which shards it reads
//	reader.go      an upstream channel that reads one
//	handover.go    how it gives it back, or loses it
//	feed.go        from readers to the client, and its acks back to them
//	prefetch.go    how much of each shard may be on its way
//	deliveries.go  which reader's message has which delivery tag
//	quiet.go       what of the home leg's is not to be settled
//	groupget.go    basic.get over all nodes
//	retire.go      shards that retire: who holds what of them, and consumers that move
//	closing.go     the end of a channel, the client's, the broker's and ours
//	parting.go     the end of a connection
//
// To add a rule: find the method in the switch, write the rule in the file of its
// topic, and a scenario in testdata. A method that can't be decoded is forwarded
// as it is: what the broker says to it is right.
//
// The package must never decode in order to forward, never keep a view beyond
// the call that brought it (EndBatch makes copies of what must stay), and never
// decide what a broker can decide: permissions, existence, equivalence of queues.
package intercept
