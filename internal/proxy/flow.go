package proxy

import (
	"fmt"
	"net"
	"time"

	"amqproxy/intercept"
	"amqproxy/shard"
)

func (se *session) bytesFor(sd *side, out *intercept.Out) *intercept.Bytes {
	switch {
	case sd == se.client:
		return &out.Client
	case sd.link >= 0:
		return out.Link(sd.link)
	}
	return &out.Home
}

// commit puts what a batch of a side made on its way, with the lock held. What this
// side's reader is to write itself is appended to writes; from is nil if there is none.
func (se *session) commit(out *intercept.Out, from *side, writes []*side) []*side {
	for to := range se.sides {
		b := se.bytesFor(to, out)
		if to == se.client {
			se.bytes.toClient += uint64(b.Len())
			se.server.totals.ToBytes.Add(uint64(b.Len()))
		}
		write, spawn := to.out.add(b, se.direct(from, to))
		if write {
			se.takes(to)
			writes = append(writes, to)
		}
		if spawn {
			se.errands.Go(func() { se.drain(to) })
		}
	}
	for _, e := range out.Errands {
		se.errands.Go(func() { se.errand(e) })
	}
	for _, d := range out.Dials {
		se.errands.Go(func() { se.open(d) })
	}
	for _, i := range out.Drops {
		se.dropLink(i)
	}
	se.giveBack(out)
	if se.core != nil {
		if f := se.core.Farewell(); f.By != "" {
			se.noteLocked(f.By, fmt.Sprintf("connection.close %d %s", f.Code, f.Text))
		}
	}
	if out.Secret != nil {
		se.handshake.login.Password = shard.Password(out.Secret)
	}
	return writes
}

// giveBack tells the node what the session holds of shards, and what it has no use
// for any more.
func (se *session) giveBack(out *intercept.Out) {
	for _, queue := range out.Seated {
		se.server.node.Sit(se.handshake.vhost, queue)
	}
	for _, r := range out.Readings {
		se.server.node.Reads(r.Member, r.Reading, r.Ended)
	}
	for _, number := range out.Left {
		se.server.node.Left(number)
	}
	for _, queue := range out.Released {
		se.server.node.Leave(se.handshake.vhost, queue)
	}
	for _, queue := range out.Held {
		se.server.node.Hold(se.handshake.vhost, queue)
	}
	for _, queue := range out.Freed {
		se.server.node.Free(se.handshake.vhost, queue)
	}
	for _, stream := range out.Abandoned {
		se.server.node.Abandon(shard.Name{VHost: se.handshake.vhost, Stream: stream})
	}
}

// write writes spans to a side whose writer the caller is, and then what came
// meanwhile.
func (se *session) write(to *side, spans net.Buffers) {
	var err error
	if len(spans) == 1 {
		_, err = to.conn.Write(spans[0])
	} else {
		_, err = spans.WriteTo(to.conn)
	}
	if err != nil {
		se.writeFailed(to)
	}
	se.drain(to)
}

// drain writes what waits for a side, as its writer, until nothing does.
func (se *session) drain(to *side) {
	se.mu.Lock()
	defer se.mu.Unlock()
	se.written(to)
	for len(to.out.pending) > 0 && !to.out.dead {
		b := to.out.pending
		to.out.pending, to.out.stalled = nil, 0
		se.takes(to)
		se.mu.Unlock()
		_, err := to.conn.Write(b)
		if err != nil {
			se.writeFailed(to)
		}
		se.mu.Lock()
		se.written(to)
		se.room.Broadcast()
	}
	to.out.writing, to.out.stalled = false, 0
	se.room.Broadcast()
}

// written tells the core that what the writer of a side has taken is written, with the lock
// held.
func (se *session) written(to *side) {
	if to != se.client || to.out.dead || to.out.taken == 0 || se.core == nil {
		return
	}
	o := outcomes.Get().(*outcome)
	se.core.Written(to.out.taken, &o.Out)
	to.out.taken = 0
	se.commit(&o.Out, nil, nil)
	o.Reset()
	outcomes.Put(o)
}

// takes notes what of the core's that counts when it is written goes with what the writer of
// a side takes, with the lock held.
func (se *session) takes(to *side) {
	if to == se.client && se.core != nil {
		to.out.taken = se.core.Unwritten()
	}
}

// follow tells the core what its consumers of groups are to read.
func (se *session) follow(parts shard.Parts) {
	se.mu.Lock()
	defer se.mu.Unlock()
	if se.over || se.core == nil || !se.core.Grouped() {
		return
	}
	var out intercept.Out
	se.core.Use(se.server.node.Snapshot())
	se.core.Follow(parts, &out)
	se.core.EndBatch()
	se.commit(&out, nil, nil)
	out.Reset()
}

// writeFailed: nothing more can be said to the side, but what it sent before may
// still be there to be read.
func (se *session) writeFailed(to *side) {
	se.mu.Lock()
	defer se.mu.Unlock()
	to.out.dead, to.out.pending = true, nil
	to.conn.SetReadDeadline(time.Now().Add(lingerTime))
	se.room.Broadcast()
}

// wait holds the reader of a side back while what it reads could not go on.
func (se *session) wait(from *side) error {
	se.mu.Lock()
	defer se.mu.Unlock()
	for se.full(from) && !se.over {
		from.paused = true
		se.room.Wait()
	}
	from.paused = false
	if se.over {
		return net.ErrClosed
	}
	return nil
}

// full tells whether to stop reading a side. What waits for the broker never
// stops the reading of the broker: it might be waiting for that itself.
func (se *session) full(from *side) bool {
	if len(se.client.out.pending) > highMark {
		return true
	}
	if from != se.client || se.core == nil {
		return from.link >= 0 && se.core.Hoard() > hoardMark
	}
	for to := range se.sides {
		n := len(to.out.pending)
		if to != se.client && (n > highMark && !se.core.Spared(to.link) || n > hardMark) {
			return true
		}
	}
	return se.waiting() > heldMark
}

// waiting is how many octets of the client's frames wait for an errand or for
// open-ok.
func (se *session) waiting() int {
	if se.core == nil {
		return 0
	}
	return se.core.Held() + len(se.handshake.behind)
}
