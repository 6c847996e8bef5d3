package intercept

// ledger settles the publishes of a client's channel that confirms and publishes to
// streams. Upstream a publish has a number on its leg; a message that comes back is
// sent again, to another shard, under a number of its own. The client knows one tag
// for it, and is told of that exactly once: an ack when the message is stored, by
// whatever way, or a nack.
//
// A return does not say which publish it is about, only that its ack comes later. So
// nothing is matched: acks of the leg for what was sent before the return are held
// until the message that came back is settled elsewhere, and if it can't be stored,
// they become nacks.
type ledger struct {
	tags   confirms // the client's
	books  []book   // of the legs; the first one is the home leg's
	nextID uint64   // of what comes back
	copies *copies  // of what is kept
	failed failings // the session's

	acked, nacked []uint64 // tags that the client has to be told of
	retries       []again  // messages that were nacked, and are to be sent again

	probing map[uint32]bool // shards that something has come back from, and whether a probe is on its way, see doubt
	cleared bool            // of the doubt about one
}

// legShift is where in an id the leg is that the message came back on.
const legShift = 56

// newLedger takes over what a channel has published before.
func newLedger(before confirms, c *copies, failed failings) *ledger {
	l := &ledger{tags: before, books: make([]book, 1), copies: c, failed: failed}
	home := &l.books[0]
	home.sent = before.low
	for tag := before.low + 1; tag <= before.sent; tag++ {
		e := entry{tag: tag}
		if before.has(tag) {
			e.flags = entryDone
		}
		home.push(e)
	}
	return l
}

// publish notes the client's next publish, which goes to a leg.
func (l *ledger) publish(leg int, key uint64, queue uint32, mandatory bool) {
	l.tags.sent++
	e := entry{tag: l.tags.sent, key: key, queue: queue}
	if mandatory {
		e.flags = entryMandatory
	}
	l.books[leg].push(e)
}

// keep keeps a copy of the last publish of a leg until it is settled. Nacked, it is among
// the retries.
func (l *ledger) keep(leg int, k copied) {
	g := &l.books[leg]
	for g.kept.n < g.entries.n {
		g.kept.push(copied{})
	}
	*l.lastKept(leg) = k
}

func (l *ledger) lastKept(leg int) *copied {
	g := &l.books[leg]
	return g.keptAt(g.sent)
}

// cameBack notes that a message has come back on a leg. Until the id that it gives
// is settled, by what becomes of sendAgain or by giveUp, acks are held.
func (l *ledger) cameBack(leg int) (id uint64) {
	l.nextID++
	id = uint64(leg)<<legShift | l.nextID
	g := &l.books[leg]
	g.back = append(g.back, back{id: id, mark: g.sent})
	return id
}

// sendAgain notes that a message goes to a leg again: under the client's tag, or, if it
// had come back, under its id.
func (l *ledger) sendAgain(leg int, e entry) { l.books[leg].push(e) }

// drop says that a message which was to be sent again is not.
func (l *ledger) drop(e entry) { l.finish(&e, false) }

// giveUp says that a message which came back can't be stored: who it was among those
// that were sent before nobody can tell, so none of them counts as stored.
func (l *ledger) giveUp(id uint64) {
	g := &l.books[id>>legShift]
	if b := g.find(id); b != nil && !b.settled {
		g.lost = max(g.lost, b.mark)
		l.release(g, 0, g.lost)
		l.settled(id)
	}
}

// candidates gives publishes to shards that are not settled and may be the one that has
// come back on a leg, by its key: until yield says that it is enough. Of those that are
// held the ack came before.
func (l *ledger) candidates(leg int, key uint64, yield func(*entry) bool) {
	g := &l.books[leg]
	for i := range g.entries.n {
		e := g.entries.at(i)
		if e.key == key && e.queue != 0 && e.flags&entryDone == 0 && !yield(e) {
			return
		}
	}
}

// knows tells whether there is such a publish.
func (l *ledger) knows(leg int, key uint64) (found bool) {
	l.candidates(leg, key, func(*entry) bool {
		found = true
		return false
	})
	return found
}

// settle takes a broker's ack or nack of a leg's publishes.
func (l *ledger) settle(leg int, seq uint64, multiple, ack bool) {
	g := &l.books[leg]
	if seq += g.base; multiple && seq == g.base {
		seq = g.sent
	}
	if seq > g.sent {
		return // it was never sent, and the protocol has no answer to a broker
	}
	g.moved = true
	from := seq
	if multiple {
		from = g.first()
	}
	for ; from <= seq; from++ {
		e := g.at(from)
		if e == nil || e.flags&(entryDone|entryHeld) != 0 {
			continue
		}
		if e.queue != 0 {
			g.open--
		}
		if len(l.failed) > 0 && ack {
			l.failed.works(e.queue)
		}
		switch {
		case ack && from > g.lost && from <= g.held():
			e.flags |= entryHeld
		case !ack && l.retry(g, from, e):
			l.probed(e.queue, false)
		default:
			l.probed(e.queue, ack && from > g.lost)
			l.forget(g, from)
			l.finish(e, ack && from > g.lost)
		}
	}
	l.trim(g)
}

// retry has a publish that was nacked sent again; false if it can't be.
func (l *ledger) retry(g *book, seq uint64, e *entry) bool {
	k := g.keptAt(seq)
	if k == nil || k.frames == nil || k.tries >= maxRetries {
		return false
	}
	k.tries++
	l.retries = append(l.retries, again{entry: *e, copied: *k})
	e.flags |= entryDone
	*k = copied{}
	return true
}

// finish settles an entry: a tag of the client's, or a message that had come back.
func (l *ledger) finish(e *entry, ack bool) {
	e.flags |= entryDone
	switch {
	case e.flags&entryAgain != 0 && ack:
		l.settled(e.tag)
	case e.flags&entryAgain != 0:
		l.giveUp(e.tag)
	case ack:
		l.tags.settle(e.tag, false)
		l.acked = append(l.acked, e.tag)
	default:
		l.tags.settle(e.tag, false)
		l.nacked = append(l.nacked, e.tag)
	}
}

// settled lets the acks go that were held for a message and are held for no other.
func (l *ledger) settled(id uint64) {
	g := &l.books[id>>legShift]
	if b := g.find(id); b != nil {
		b.settled = true
	}
	before := g.held()
	for n := len(g.back); n > 0 && g.back[n-1].settled; n-- {
		g.back = g.back[:n-1]
	}
	l.release(g, g.held()+1, before)
}

// release finishes what is held of a range of numbers.
func (l *ledger) release(g *book, from, to uint64) {
	for seq := max(from, g.first()); seq <= to; seq++ {
		if e := g.at(seq); e != nil && e.flags&(entryHeld|entryDone) == entryHeld {
			l.probed(e.queue, seq > g.lost)
			l.forget(g, seq)
			l.finish(e, seq > g.lost)
		}
	}
	l.trim(g)
}

// trim drops the settled entries that no other waits behind.
func (l *ledger) trim(g *book) {
	for g.entries.n > 0 && g.entries.at(0).flags&entryDone != 0 {
		g.entries.pop()
		if g.kept.n > 0 {
			g.kept.pop()
		}
	}
}

// forget lets the copy of a publish go.
func (l *ledger) forget(g *book, seq uint64) {
	if k := g.keptAt(seq); k != nil {
		l.copies.end(k)
	}
}

// forgetAll lets all copies go, those that are to be sent again too.
func (l *ledger) forgetAll() {
	for i := range l.books {
		g := &l.books[i]
		for seq := g.first(); seq <= g.sent; seq++ {
			l.forget(g, seq)
		}
		g.kept = ring[copied]{}
	}
	for i := range l.retries {
		l.copies.end(&l.retries[i].copied)
	}
	l.retries = nil
}

// doubt notes that a message has come back from a shard. Where its messages have to stay in
// order, one alone goes there next, a probe: if more were on their way when the queue comes
// back, it might store the later ones only.
func (l *ledger) doubt(queue uint32) {
	if l.probing == nil {
		l.probing = map[uint32]bool{}
	}
	l.probing[queue] = false
}

// probe notes that a message goes to a shard, which is the probe if there is a doubt.
func (l *ledger) probe(queue uint32) {
	if _, doubt := l.probing[queue]; doubt {
		l.probing[queue] = true
	}
}

// probed ends the doubt if a shard has stored a message, else the next one is the probe. Acks
// of what was sent before something came back do not get here before that is settled.
func (l *ledger) probed(queue uint32, stored bool) {
	if len(l.probing) == 0 {
		return
	}
	sent, doubt := l.probing[queue]
	switch {
	case stored && doubt:
		delete(l.probing, queue)
		l.cleared = true
	case sent:
		l.probing[queue] = false
	}
}

// lapse ends the doubts about shards that nothing waits for and that have not failed of late:
// there may never be a message for them again.
func (l *ledger) lapse(parked map[uint32]int) {
	for queue, sent := range l.probing {
		if !sent && parked[queue] == 0 && l.failed[queue] == nil {
			delete(l.probing, queue)
		}
	}
}

// outstanding tells whether any publish is not settled.
func (l *ledger) outstanding() bool { return l.tags.outstanding() }

// news is what the client has to be told: single nacks and acks, and an ack of
// everything up to a tag, 0 if there is none.
type news struct {
	nacks, acks []uint64
	upTo        uint64
	confirmed   uint64 // how many publishes are acked by it
}

// tell gives the news since it was asked last, which hold until the next call of
// another method.
func (l *ledger) tell() (n news) {
	n.confirmed = uint64(len(l.acked))
	acks := l.acked[:0]
	for _, tag := range l.acked {
		if tag <= l.tags.low {
			n.upTo = max(n.upTo, tag)
		}
	}
	for _, tag := range l.acked {
		if tag > n.upTo {
			acks = append(acks, tag)
		}
	}
	n.acks, n.nacks = acks, l.nacked
	l.acked, l.nacked = l.acked[:0], l.nacked[:0]
	return n
}
