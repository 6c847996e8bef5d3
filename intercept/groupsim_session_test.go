package intercept

import (
	"fmt"
	"slices"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// simSession is a Conn with what internal/proxy does for one: it carries frames, opens links,
// puts its questions to the node and tells it what it hears.
type simSession struct {
	s      *sim
	n      int
	node   *simNode
	conn   *Conn
	out    Out
	client *simClient
	over   bool

	errands int // that are not answered

	home      *simConn
	links     []*simConn
	toClient  *pipe
	pending   []byte         // what is to be written to the client
	writing   bool           // it is about to be
	coming    simContents    // what the client is sent
	unread    []*simDelivery // that are pending, and that the client need not settle
	wants     map[*reader]simWant
	overSince map[uint64]time.Duration

	members map[uint64]map[string][]time.Duration // by number: when a shard was no part of it any more
	gone    map[uint64]time.Duration              // when consumers left
}

func (s *sim) newSession(n *simNode) *simSession {
	s.sessions++
	se := &simSession{s: s, n: s.sessions, node: n, members: map[uint64]map[string][]time.Duration{}, gone: map[uint64]time.Duration{}, overSince: map[uint64]time.Duration{}}
	se.conn = New(Config{VHost: "/", FrameMax: 131072, HearsCancel: true, Seed: s.rnd.Uint64(), KnowsLogin: true, MaxLinks: 8,
		StallTimeout: 3 * time.Second, ConfirmTimeout: 30 * time.Second, WaitTimeout: 10 * time.Second, HandoverTimeout: s.handover}, n.snap, s.counters)
	se.home = s.brokers[n.i].connect(se, -1)
	se.home.down.take = func(packets []packet) { se.take(-1, packets) }
	se.toClient = &pipe{s: s}
	se.coming = simContents{s: s, what: fmt.Sprint(se, " for its client")}
	se.client = newSimClient(se)
	n.sessions = append(n.sessions, se)
	s.trace("%s begins", se)
	return se
}

func (se *simSession) String() string { return fmt.Sprintf("session %d of %s", se.n, se.node.name) }

// later has something happen to a session, unless it is over.
func (se *simSession) later(d time.Duration, what func()) {
	se.node.later(d, func() {
		if !se.over {
			what()
		}
	})
}

// fromClient takes what the client has sent.
func (se *simSession) fromClient(packets []packet) {
	if se.over {
		return
	}
	se.feed(packets, se.conn.FromClient, se.conn.RunFromClient)
	if packets[len(packets)-1].frame == nil {
		se.end(false)
	}
}

// take takes what has come on a link, or with -1 on the home link.
func (se *simSession) take(link int, packets []packet) {
	if se.over {
		return
	}
	one, run := se.conn.FromHome, se.conn.RunFromHome
	if link >= 0 {
		one = func(f frame.Frame, out *Out) error { return se.conn.FromLink(link, f, out) }
		run = func(b []byte, out *Out) int { return se.conn.RunFromLink(link, b, out) }
	}
	se.feed(packets, one, run)
	if packets[len(packets)-1].frame != nil {
		return
	}
	if link >= 0 {
		se.links[link] = nil
		se.conn.LinkDown(link, Lost, "", &se.out)
		se.collect()
		return
	}
	se.conn.HomeDown(&frame.ConnError{Code: frame.ConnectionForced, Text: "the broker is gone"}, &se.out)
	se.collect()
	se.later(time.Second, func() { se.end(false) })
}

// feed gives frames to the Conn as one batch in one buffer, which is void behind it.
func (se *simSession) feed(packets []packet, one func(frame.Frame, *Out) error, run func([]byte, *Out) int) {
	var buffer []byte
	for _, p := range packets {
		buffer = append(buffer, p.frame...)
	}
	for b := buffer; len(b) > 0; {
		n := run(b, &se.out)
		packets = packets[len(cut(b[:n])):]
		if b = b[n:]; len(b) == 0 {
			break
		}
		f := frame.First(b)
		b = b[len(f):]
		if taken := packets[0].taken; taken != nil {
			taken()
		}
		packets = packets[1:]
		if err := one(f[:len(f):cap(f)], &se.out); err != nil {
			se.s.fail("%s does not like %v: %v", se, f, err)
		}
		if len(packets) > 0 && packets[0].taken != nil { // it has to know what the client has by then
			se.collect()
		}
	}
	se.collect()
	for i := range buffer {
		buffer[i] = 0xEE
	}
}

// collect puts what the Conn wants on its way.
func (se *simSession) collect() {
	out := &se.out
	se.conn.EndBatch()
	if se.over {
		se.tell()
		out.Reset()
		return
	}
	if b := out.Home.AppendTo(nil); len(b) > 0 {
		se.home.up.write(b)
	}
	for i := range out.Links() {
		if b := out.Link(i).AppendTo(nil); len(b) > 0 && i < len(se.links) && se.links[i] != nil {
			se.links[i].up.write(b)
		}
	}
	se.give(out.Client.AppendTo(nil))
	for _, e := range out.Errands {
		se.errand(e)
	}
	for _, d := range out.Dials {
		se.dial(d)
	}
	for _, i := range out.Drops {
		if se.links[i] != nil {
			se.hangUp(se.links[i])
			se.links[i] = nil
		}
	}
	se.tell()
	out.Reset()
}

// tell tells the node what the session's consumers do, in the order of the shell.
func (se *simSession) tell() {
	n, out := se.node, &se.out
	for _, queue := range out.Seated {
		n.seats[queue]++
	}
	for _, r := range out.Readings {
		n.reads(r)
	}
	for _, number := range out.Left {
		se.gone[number] = se.s.now
		n.left(number)
	}
	for _, queue := range out.Released {
		if n.seats[queue]--; n.seats[queue] < 0 {
			se.s.fail("%s releases %s, where it has no seat", se, queue)
		}
	}
}

// give is what the client gets: it is written in a moment.
func (se *simSession) give(b []byte) {
	for _, f := range cut(b) {
		d, tag := se.coming.take(f)
		if d == nil {
			se.recovered(f)
			continue
		}
		if d.given != never {
			se.s.fail("%s gives its client %v twice", se, d)
		}
		d.given, d.to = se.s.turn, se.client.channel(f.Channel())
		d.to.given = append(d.to.given, d)
		if d.to.noAck(tag) {
			d.noAck = true
			se.unread = append(se.unread, d)
		}
	}
	se.pending = append(se.pending, b...)
	if len(se.pending) > 0 && !se.writing {
		se.writing = true
		se.later(se.s.lag()/4, se.write)
	}
}

// recovered: what the home broker sent before recover-ok is void with that.
func (se *simSession) recovered(f frame.Frame) {
	if f.Type() != frame.TypeMethod || f.Method() != frame.BasicRecoverOk {
		return
	}
	for _, d := range se.client.channel(f.Channel()).given {
		d.void = d.void || d.settled == never && !d.noAck && d.ch.k.link < 0
	}
}

func (se *simSession) write() {
	se.toClient.write(se.pending)
	se.pending, se.writing = nil, false
	for _, d := range se.unread {
		d.settled, d.fate = se.s.turn, fateAcked
	}
	se.unread = nil
	if n := se.conn.Unwritten(); n > 0 {
		se.conn.Written(n, &se.out)
		se.collect()
	}
}

func (se *simSession) errand(e Errand) {
	if e.Kind != Join {
		se.s.fail("%s asks for an errand of kind %d", se, e.Kind)
	}
	se.errands++
	se.node.later(se.s.lag(), func() { // the node does not know that a session is over
		a := Answer{Channel: e.Channel, Serial: e.Serial, Member: se.node.join(e.Tag)}
		se.node.later(se.s.lag()/4, func() {
			se.errands--
			se.members[a.Member] = map[string][]time.Duration{}
			se.conn.Use(se.node.snap)
			se.conn.Answered(a, &se.out)
			se.follow(se.node.parts)
		})
	})
}

// follow has the Conn follow new parts, and notes which shards are none of them any more.
func (se *simSession) follow(parts shard.Parts) {
	defer se.collect()
	if !se.conn.Grouped() {
		return
	}
	for number, queues := range se.members {
		m := se.conn.members[number]
		if m == nil {
			continue
		}
		for _, old := range m.part {
			if !slices.ContainsFunc(parts.Of[number].Shards, func(n shard.Shard) bool { return n.Queue == old.Queue }) {
				queues[old.Queue] = append(queues[old.Queue], se.s.now)
			}
		}
	}
	se.conn.Use(se.node.snap)
	se.conn.Follow(parts, &se.out)
}

func (se *simSession) dial(d Dial) {
	s := se.s
	b := s.brokers[slices.IndexFunc(s.nodes, func(n *simNode) bool { return n.name == d.Node })]
	se.later(s.lag(), func() {
		se.conn.Use(se.node.snap)
		if !b.up || s.apart(se.node, b) {
			s.trace("%s: its link %d to %s fails", se, d.Link, d.Node)
			se.conn.LinkDown(d.Link, Failed, "nobody there", &se.out)
			se.collect()
			return
		}
		k := b.connect(se, d.Link)
		k.down.take = func(packets []packet) {
			if se.links[d.Link] == k {
				se.take(d.Link, packets)
			}
		}
		for len(se.links) <= d.Link {
			se.links = append(se.links, nil)
		}
		se.links[d.Link] = k
		s.trace("%s: its link %d to %s is up", se, d.Link, d.Node)
		se.conn.LinkUp(d.Link, 2047, &se.out)
		se.collect()
	})
}

// hangUp closes a connection to a broker, which sees it when it has seen the rest.
func (se *simSession) hangUp(k *simConn) {
	k.up.end()
	k.down.shut = true
}

func (se *simSession) tick() {
	if se.over {
		return
	}
	se.conn.Use(se.node.snap)
	se.conn.Tick(se.s.time(), &se.out)
	se.collect()
	se.checkConn()
}

// end is the end of a session: its links are closed, and then it gives back what it has. A
// proxy that crashes gives back nothing.
func (se *simSession) end(crashed bool) {
	if se.over {
		return
	}
	se.s.trace("%s ends", se)
	se.client.gone("its session has ended")
	se.toClient.end()
	var parting []*simConn
	for _, k := range append(slices.Clone(se.links), se.home) {
		if k != nil {
			parting = append(parting, k)
			se.hangUp(k)
			k.up.shut = k.up.shut || crashed && se.s.chance(.3)
			if k.up.shut {
				k.end(packet{turn: -1})
			}
		}
	}
	se.over = true
	se.node.sessions = slices.DeleteFunc(se.node.sessions, func(o *simSession) bool { return o == se })
	se.links = nil
	if !crashed {
		se.finish(parting)
	}
}

// finish ends the Conn when all links are closed and all errands answered.
func (se *simSession) finish(parting []*simConn) {
	se.node.later(se.s.lag(), func() {
		if se.errands > 0 || slices.ContainsFunc(parting, func(k *simConn) bool { return k.open }) {
			se.finish(parting)
			return
		}
		se.conn.End(&se.out)
		se.collect()
	})
}

// memberAt is the consumer that reads on a channel of a link.
func (se *simSession) memberAt(link int, n uint16) uint64 {
	if link < len(se.conn.links) {
		if r := se.conn.links[link].reader(n); r != nil && r.m != nil {
			return r.m.number
		}
	}
	return 0
}
