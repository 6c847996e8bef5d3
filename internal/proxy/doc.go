// Package proxy moves bytes: listeners, sessions, links, handshakes, outboxes and
// heartbeats. All I/O is here and no policy: what a frame means is decided in
// intercept, where messages go in shard, what exists in node.
//
// A session is one client connection with its home link, and with the further links that
// the core asks for. It has a goroutine for each socket that it reads; when the session is
// open each goes on in a fresh one, whose stack is small. All feed the one intercept.Conn
// under the session's lock. The client's reader writes what comes of it to the links
// itself, and theirs to the client; where there are several links it gives each what it
// takes at once, and leaves the rest to a writer, so that one that takes nothing holds up
// no other. A destination has one writer at a time; what comes while it writes waits in the
// destination's outbox. Further goroutines live for one errand, for the opening of a link,
// or until one outbox is empty. The last of the readers of client and home link joins them
// all and closes the session.
//
// Locks: each session has one. The node's is taken under it and never the other way,
// and no system call is made under it.
//
// Time: one ticker of the Server walks the sessions twice a second, for
// heartbeats, stalled peers and the core's own clock. No frame costs a timer.
package proxy
