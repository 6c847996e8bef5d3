package intercept

import "maps"

// counts compares what the Conn counts with what there is.
func (r *fuzzRun) counts() {
	held, open, failing, copied := 0, 0, 0, 0
	for _, ch := range r.conn.channels {
		if ch == nil {
			continue
		}
		open++
		held += len(ch.heldFrames)
		if ch.waitsToClose() {
			failing++
		}
		copied += ch.copiedSize()
	}
	if c := r.conn; held != c.heldSize || open != c.open || failing != c.failing {
		r.t.Fatalf("%d octets held, %d channels open, %d failing; counted are %d, %d, %d", held, open, failing, c.heldSize, c.open, c.failing)
	}
	parked := 0
	for _, ch := range r.conn.channels {
		if ch != nil {
			parked += len(ch.parked)
		}
	}
	if parked != r.conn.parked {
		r.t.Fatalf("%d messages are parked, counted are %d", parked, r.conn.parked)
	}
	if copied != r.conn.copies.size {
		r.t.Fatalf("%d octets of copies, counted are %d", copied, r.conn.copies.size)
	}
}

// copiedSize is what the copies of a channel take.
func (ch *channel) copiedSize() (size int) {
	for _, m := range ch.again {
		size += m.size
	}
	for _, m := range ch.parked {
		size += m.size
	}
	size += ch.publish.kept.size
	if ch.ledger == nil {
		return size
	}
	for _, g := range ch.ledger.books {
		for i := range g.kept.n {
			size += g.kept.at(i).size
		}
	}
	return size
}

// holds compares what the node was told to be held with what is.
func (r *fuzzRun) holds() {
	watching, holds := 0, map[string]int{}
	for _, ch := range r.conn.channels {
		if ch == nil {
			continue
		}
		if queue := ch.wait.get.holds; queue != "" {
			holds[queue]++
		}
		for _, k := range ch.consumers {
			if k.stream == "" && k.watched {
				holds[k.queue]++
			}
		}
		if ch.watch != nil {
			watching++
			for _, u := range ch.watch.unacked {
				holds[u.queue]++
			}
		}
	}
	if !maps.Equal(holds, r.conn.holds) || watching != r.conn.watching {
		r.t.Fatalf("%v is held and %d channels watched; counted are %v and %d", holds, watching, r.conn.holds, r.conn.watching)
	}
	for queue, n := range r.held {
		if n != min(holds[queue], 1) {
			r.t.Fatalf("%s is held %d times; the node was told %d", queue, holds[queue], n)
		}
	}
}
