package intercept

import (
	"slices"

	"amqproxy/frame"
	"amqproxy/shard"
)

// member is a consumer of the client's that belongs to the group of a stream. The node says
// which shards it is to read, and for each it has a reader.
type member struct {
	number   uint64 // the node's
	ch       *channel
	stream   string
	tag      string
	flags    byte
	args     frame.Table
	counters *shard.Counters
	ordered  bool
	limit    int  // of messages that the client has and has not settled; 0 is none
	left     bool // it is no consumer any more, and ends with its last reader

	part    []shard.Shard // what it is to read
	readers []*reader
	ready   []*reader // those that have messages for the client, in turn
	unacked int       // messages that the client has, and has not settled
	starved int       // for how many ticks, see relieve
}

// Reading is what a consumer of a group has to do with a shard.
type Reading struct {
	Member uint64
	shard.Reading
	Ended bool // nothing any more
}

// member finds a consumer of a group by its tag; nil if there is none.
func (ch *channel) member(tag string) *member {
	if ch.feed == nil {
		return nil
	}
	at := slices.IndexFunc(ch.feed.members, func(m *member) bool { return m.tag == tag })
	if at < 0 {
		return nil
	}
	return ch.feed.members[at]
}

// Grouped tells whether the client has consumers that belong to groups.
func (c *Conn) Grouped() bool { return len(c.members) > 0 }

// Follow takes what the consumers of groups are to read.
func (c *Conn) Follow(parts shard.Parts, out *Out) {
	if parts.Serial < c.parts.Serial {
		return // it has come by another way meanwhile
	}
	c.parts = parts
	for _, m := range c.groupMembers() {
		c.takePart(m, out)
	}
}

// groupMembers are all of them, in the order in which they came.
func (c *Conn) groupMembers() []*member {
	all := make([]*member, 0, len(c.members))
	for _, m := range c.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *member) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	return all
}

func (c *Conn) takePart(m *member, out *Out) {
	part, told := c.parts.Of[m.number]
	switch {
	case !told || m.left:
	case part.Gone:
		if c.cfg.HearsCancel && m.ch.state == chOpen {
			c.toClient(m.ch, frame.Build(nil, m.ch.number, frame.BasicCancel).ShortStr(m.tag).Bit(true).End(), out)
		}
		c.leaveGroup(m, out)
	default:
		m.part = part.Shards
		c.follow(m, out)
	}
}

// follow has a consumer read what it is to, and nothing else.
func (c *Conn) follow(m *member, out *Out) {
	part := map[string]bool{}
	for _, s := range m.part {
		part[s.Queue] = !m.left
	}
	for _, r := range slices.Clone(m.readers) {
		if !part[r.shard.Queue] {
			c.leaveShard(r, out)
		}
		delete(part, r.shard.Queue)
	}
	if !c.mayBegin(m) {
		return
	}
	for _, s := range m.part {
		if part[s.Queue] {
			c.newReader(m, s, out)
		}
	}
	c.prefetch(m, out)
	for _, r := range slices.Clone(m.readers) {
		c.begin(r, out)
	}
}

// mayBegin tells whether a consumer may have new shards to read.
func (c *Conn) mayBegin(m *member) bool {
	return !m.left && m.ch.state == chOpen && c.phase == running
}

func (c *Conn) newReader(m *member, s shard.Shard, out *Out) *reader {
	r := &reader{ch: m.ch, m: m, shard: s}
	r.source = m.ch.feed.source(r)
	m.readers = append(m.readers, r)
	out.Seated = append(out.Seated, s.Queue)
	return r
}

// readAgain begins anew with a shard that was given back, if it is to be read after all.
func (c *Conn) readAgain(m *member, queue string, out *Out) {
	at := slices.IndexFunc(m.part, func(s shard.Shard) bool { return s.Queue == queue })
	if at < 0 || !c.mayBegin(m) {
		return
	}
	r := c.newReader(m, m.part[at], out)
	c.prefetch(m, out)
	c.begin(r, out)
}

// begin has a reader begin, if its broker can be had.
func (c *Conn) begin(r *reader, out *Out) {
	if r.stage != readerWaiting || r.leaving || r.ch.state != chOpen || c.phase != running {
		return
	}
	c.tellReading(r, out)
	l := c.readLink(r.shard, out)
	switch {
	case l == nil || c.now.Before(r.notBefore) || !c.openReader(r, l, out):
	case r.m.ordered:
		r.stage = readerAsking
		c.askFor(r, out)
	default:
		c.subscribe(r, out)
	}
}

// tellReading tells the node what a reader is at.
func (c *Conn) tellReading(r *reader, out *Out) {
	now := shard.Reading{Queue: r.shard.Queue, State: shard.Waiting, Unacked: r.unacked + len(r.waiting)}
	switch {
	case r.leaving || r.stage == readerClosing:
		now.State = shard.Handing
	case !r.began.IsZero():
		now.State = shard.Active
	case r.stage == readerWaiting && r.ticks >= barredAfter:
		now.State = shard.Barred
	}
	if now != r.told {
		r.told = now
		out.Readings = append(out.Readings, Reading{Member: r.m.number, Reading: now})
	}
}

// notReading tells the node that a reader has given its shard back.
func (c *Conn) notReading(r *reader, out *Out) {
	out.Readings = append(out.Readings, Reading{Member: r.m.number, Reading: shard.Reading{Queue: r.shard.Queue}, Ended: true})
	out.Released = append(out.Released, r.shard.Queue)
}

// leaveGroup ends a consumer; its shards go to others when they are given back.
func (c *Conn) leaveGroup(m *member, out *Out) {
	if m.left {
		return
	}
	c.left(m, out)
	m.ready = nil
	if f := m.ch.feed; f != nil {
		f.members = slices.DeleteFunc(f.members, func(k *member) bool { return k == m })
	}
	c.follow(m, out)
	c.memberEnded(m, out)
}

// memberEnded forgets a consumer that is none any more and has given everything back.
func (c *Conn) memberEnded(m *member, out *Out) {
	if m.left && len(m.readers) == 0 {
		delete(c.members, m.number)
	}
}

// dropFeed ends the consumers of groups with their channel: the brokers have at once what
// the client has not settled.
func (c *Conn) dropFeed(ch *channel, out *Out) {
	if ch.feed == nil {
		return
	}
	for _, m := range slices.Clone(ch.feed.members) {
		c.leaveGroup(m, out)
	}
	for _, m := range c.groupMembers() { // also those that were cancelled before
		if m.ch == ch {
			c.closeReaders(m.readers, out)
		}
	}
	c.closeReaders(ch.feed.getters, out)
	ch.feed = nil
}

func (c *Conn) closeReaders(readers []*reader, out *Out) {
	for _, r := range slices.Clone(readers) {
		if r.stage < readerClosing {
			c.closeReader(r, out)
		}
	}
}

// endGroups gives back what is left when the session is over and its links are closed.
func (c *Conn) endGroups(out *Out) {
	for _, m := range c.groupMembers() {
		for _, r := range m.readers {
			c.notReading(r, out)
		}
		m.readers = nil
		c.left(m, out)
	}
	c.members = nil
}

// LinkGone says that a link is closed whose session is over: what its readers had is free, and
// need not wait for the other links.
func (c *Conn) LinkGone(i int, out *Out) {
	for _, r := range c.links[i].readers {
		if r != nil && r.m != nil && r.m.drop(r) {
			c.notReading(r, out)
		}
	}
	c.links[i].readers = nil
}

// abandonGroups ends the consumers of groups at once: what the client still acknowledges does
// not count.
func (c *Conn) abandonGroups(out *Out) {
	for _, m := range c.groupMembers() {
		c.left(m, out)
		c.closeReaders(m.readers, out)
		c.memberEnded(m, out)
	}
}

// left tells the node that a consumer is none any more.
func (c *Conn) left(m *member, out *Out) {
	if !m.left {
		m.left = true
		out.Left = append(out.Left, m.number)
	}
}

// tickGroups has readers tried again that can't read yet, closes those whose time to hand
// over is up, and tells how many messages they have.
func (c *Conn) tickGroups(out *Out) {
	if len(c.members) == 0 {
		return
	}
	c.ticks++
	for _, m := range c.groupMembers() {
		for _, r := range slices.Clone(m.readers) {
			c.tickReader(r, out)
		}
		c.relieve(m, out)
	}
}

func (c *Conn) tickReader(r *reader, out *Out) {
	switch {
	case r.stage >= readerClosing:
	case r.leaving && r.deadline.IsZero():
		r.deadline = c.now.Add(c.cfg.HandoverTimeout)
	case r.leaving && c.now.After(r.deadline):
		c.closeReader(r, out)
	case r.leaving:
	case r.stage == readerWaiting:
		r.ticks++
		c.begin(r, out)
	case r.stage == readerAsking && !r.asks:
		c.askFor(r, out)
	case r.stage == readerReading:
		c.adjust(r, out)
	}
	if c.ticks%tellEvery == 0 && r.stage < readerGone {
		c.tellReading(r, out)
	}
}

// barredAfter is for how many ticks a reader waits for a way to its broker before the node is
// told, so that somebody else may read the shard.
const barredAfter = 20

// tellEvery is after how many ticks the node is told how many messages readers have.
const tellEvery = 4

// drop forgets a reader; false if the consumer has none such.
func (m *member) drop(r *reader) bool {
	m.unready(r)
	at := slices.Index(m.readers, r)
	if at < 0 {
		return false
	}
	m.readers = slices.Delete(m.readers, at, at+1)
	return true
}

func (m *member) unready(r *reader) {
	m.ready = slices.DeleteFunc(m.ready, func(k *reader) bool { return k == r })
}

// cancelMember takes a client's basic.cancel of a consumer of a group.
func (c *Conn) cancelMember(ch *channel, f frame.Frame, m *member, out *Out) {
	if c.awaitReplies(ch, f) {
		return
	}
	c.leaveGroup(m, out)
	c.replyTag(ch, nowait(f), m.tag, out)
}

func (c *Conn) replyTag(ch *channel, nowait bool, tag string, out *Out) {
	if !nowait {
		c.toClient(ch, frame.Build(nil, ch.number, frame.BasicCancelOk).ShortStr(tag).End(), out)
	}
}
