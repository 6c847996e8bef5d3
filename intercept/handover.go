package intercept

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"amqproxy/frame"
)

// leaveShard has a reader give its shard back: the client gets nothing more of it, and has
// some time to settle what it has. In an ordered group it stays subscribed until then, so that
// the broker lets nobody else read on, even if this proxy dies or is frozen now. What it brings
// is dropped, and goes back when the channel closes.
func (c *Conn) leaveShard(r *reader, out *Out) {
	if r.leaving || r.stage >= readerClosing {
		return
	}
	r.leaving = true
	c.drop(r)
	if r.stage == readerWaiting {
		c.readerEnded(r, out)
		return
	}
	if !r.m.ordered && r.unacked > 0 && r.stage == readerReading {
		to := out.to(r.link)
		to.built(to.build(r.number, frame.BasicCancel).ShortStr(r.upTag()).Bit(false))
	}
	c.tellReading(r, out)
	c.goOnReading(r, out)
}

// closeReader gives back to the broker what the client has not settled.
func (c *Conn) closeReader(r *reader, out *Out) {
	if r.stage == readerWaiting {
		c.readerEnded(r, out)
		return
	}
	r.stage = readerClosing
	c.drop(r)
	c.freeGot(r, 0, true, out)
	to := out.to(r.link)
	to.ownedOr(frame.AppendChannelClose(to.room(512)[:0], r.number, &frame.ChannelError{Code: frame.ReplySuccess, Text: "Goodbye"}))
}

// readerEnded says that a reader is no more, and has given back what it had.
func (c *Conn) readerEnded(r *reader, out *Out) {
	c.forgetReader(r)
	if r.m == nil {
		r.ch.dropGetter(r)
		return
	}
	if !r.m.drop(r) {
		return // another has its place already
	}
	c.notReading(r, out)
	c.memberEnded(r.m, out)
	c.readAgain(r.m, r.shard.Queue, out)
}

// drop forgets what the client was not given of a reader's messages.
func (c *Conn) drop(r *reader) {
	for _, b := range r.waiting {
		c.hoard -= len(b)
	}
	r.waiting = nil
	if r.m != nil {
		r.m.unready(r)
	}
}

// forgetReader frees the number of a reader that is closed.
func (c *Conn) forgetReader(r *reader) {
	if r.link != nil && r.link.reader(r.number) == r {
		r.link.readers[r.number] = nil
	}
	c.drop(r)
	r.stage, r.partial = readerGone, nil
}

// loseReaders ends the readers of a link that is down: all of them at first, for what one
// leads to must not reach another there.
func (c *Conn) loseReaders(l *link, out *Out) {
	var closing, lost []*reader
	for _, r := range l.readers {
		switch {
		case r == nil:
			continue
		case r.stage == readerClosing:
			closing = append(closing, r)
		default:
			lost = append(lost, r)
		}
		c.forgetReader(r)
	}
	l.readers = nil
	for _, r := range closing {
		c.readerEnded(r, out)
	}
	slices.SortStableFunc(lost, func(a, b *reader) int { return cmp.Compare(a.rank(), b.rank()) })
	for _, r := range lost {
		c.readerLost(r, out)
	}
}

// rank puts getters behind: the next shard is asked when the others have ended.
func (r *reader) rank() int {
	if r.m == nil {
		return 1
	}
	return 0
}

// readerLost says that a reader has been ended by its broker, or with its link. If its shard
// is still to be read there is a new one.
func (c *Conn) readerLost(r *reader, out *Out) {
	if r.stage >= readerReading && r.stage < readerClosing && r.link.state == linkUp && r.link.reader(r.number) == r {
		c.closeReader(r, out) // its consumer was cancelled, and its channel is open still
	} else {
		c.forgetReader(r)
	}
	switch {
	case r.m == nil:
		r.ch.dropGetter(r)
		c.freeGot(r, 0, true, out)
		c.farGetLost(r, out)
	case !r.leaving && !r.m.left:
		c.replace(r, out)
	case r.stage == readerGone:
		c.readerEnded(r, out)
	}
}

// replace puts a new reader in the place of one that is lost. It begins after a while, which
// is longer if that has happened before.
func (c *Conn) replace(r *reader, out *Out) {
	m := r.m
	at := slices.Index(m.readers, r)
	if at < 0 {
		return
	}
	next := &reader{ch: r.ch, m: m, shard: r.shard, prefetch: r.prefetch, told: r.told, refused: r.refused, losses: min(r.losses+1, 4)}
	if r.began.IsZero() || c.now.Sub(r.began) > lostLong {
		next.losses = 1
	}
	next.notBefore = c.now.Add(1 + lostPause<<(next.losses-1) - lostPause)
	next.source = r.ch.feed.source(next)
	m.readers[at] = next
	c.tellReading(next, out)
}

// How long a reader that is lost waits for the next one to begin: at first until the next
// tick.
const (
	lostPause = 500 * time.Millisecond
	lostLong  = 10 * time.Second
)

// readerRefused takes a broker's channel.close on a reader's channel.
func (c *Conn) readerRefused(r *reader, f frame.Frame, out *Out) {
	a := f.Args()
	e := &frame.ChannelError{Code: a.Short()}
	text := string(a.ShortStr())
	_, e.Text, _ = strings.Cut(text, " - ")
	e.Method = frame.Method(uint32(a.Short())<<16 | uint32(a.Short()))
	late := r.unacked > 0 && strings.Contains(text, "timed out")
	denied := e.Code == frame.AccessRefused
	if denied && r.m != nil && strings.Contains(text, "exclusive") {
		// Somebody else was faster, or, if that comes again, the queue is not what is known of it:
		// one that serves one consumer at a time takes none that wants to be alone.
		denied = false
		r.refused = (r.refused + 1) % 3
	}
	c.forgetReader(r)
	if ch := r.ch; (late || denied) && c.channels[ch.number] == ch && ch.state == chOpen {
		c.fail(ch, e, out)
	}
	c.readerLost(r, out)
}
