package intercept

import (
	"fmt"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// reader is an upstream channel that reads for a client channel, on a consume link: it
// consumes one shard for a consumer of a group, or gets messages from any. Its number there
// has nothing to do with the client channel's.
//
//	waiting      it has no channel: its link is being opened, or can't be had
//	asking       the broker is asked whether somebody else consumes the shard
//	subscribing  basic.consume went up
//	reading      the broker delivers
//	pausing      our basic.cancel went up, to consume with another prefetch
//	paused       it is answered
//	closing      our channel.close went up; what comes is dropped
//	gone         it is no more: acks for what it has brought go nowhere
//
// One that leaves is not closed before what the client has of it is settled, or until its
// time is over.
type reader struct {
	ch     *channel
	m      *member // nil: it gets
	shard  shard.Shard
	link   *link
	number uint16 // its channel there
	stage  readerStage
	source uint32 // in the channel's deliveries

	prefetch  int       // that it consumes with, or is to; 0 is no limit
	qos       int       // what its channel has of it
	idle      bool      // see relieve
	asks      bool      // the broker has not answered who consumes the shard
	alone     bool      // it has said that nobody else does
	leaving   bool      // it is to give the shard back
	deadline  time.Time // when it is closed whatever the client has, if it leaves
	notBefore time.Time // when it may begin: at a tick, if one like it was lost
	varied    bool      // it consumes with another tag than the client, see upTag
	refused   int       // how often in a row the broker took it for one that is not alone
	ticks     int       // that it has waited for a link
	losses    int       // how often in a row it was lost
	began     time.Time // delivering: just after a tick
	got       []unacked // messages of shards that may be deleted, by a getter
	recovers  int       // recover-oks that are due: what comes before them is void

	content content  // of the message that is coming
	partial []byte   // its frames
	waiting [][]byte // messages that the client may not have yet, in order
	unacked int      // messages that the client has, and has not settled
	mark    uint64   // see settleTo
	marked  int
	told    shard.Reading
}

type readerStage uint8

const (
	readerWaiting readerStage = iota
	readerAsking
	readerSubscribing
	readerReading
	readerPausing
	readerPaused
	readerClosing
	readerGone
)

// maxPartial is the most memory that a reader keeps for the next message that comes in parts.
const maxPartial = 64 << 10

// readLink is the consume link to a shard's broker; nil if it can't be had now.
func (c *Conn) readLink(s shard.Shard, out *Out) *link {
	if s.Local {
		return c.upLink(c.snap.Node(), "", out)
	}
	b := c.snap.Broker(s.Node)
	if b.Apart == "" && b.Address != "" {
		if l := c.upLink(s.Node, b.Address, out); l != nil || c.dialling(s.Node) {
			return l
		}
	}
	if b.Beside { // every broker of a cluster leads to every queue
		return c.upLink(c.snap.Node(), "", out)
	}
	return nil
}

// upLink is the consume link to a node's broker, which is dialled if need be; nil while it
// is not up.
func (c *Conn) upLink(node, address string, out *Out) *link {
	l := c.linkTo(Dial{Node: node, Address: address, Reads: true}, out)
	if l == nil || l.state != linkUp {
		return nil
	}
	return l
}

// dialling tells whether a consume link is being opened for the first time.
func (c *Conn) dialling(node string) bool {
	for _, l := range c.links {
		if l.to.Reads && l.to.Node == node {
			return l.state == linkDialling
		}
	}
	return false
}

// openReader gives a reader a channel on a link; false if there is none left.
func (c *Conn) openReader(r *reader, l *link, out *Out) bool {
	n := 1
	for n < len(l.readers) && l.readers[n] != nil {
		n++
	}
	if l.channelMax > 0 && n > int(l.channelMax) {
		return false
	}
	for len(l.readers) <= n {
		l.readers = append(l.readers, nil)
	}
	l.readers[n] = r
	r.link, r.number = l, uint16(n)
	to := out.to(l)
	to.built(to.build(r.number, frame.ChannelOpen).ShortStr(""))
	return true
}

// RunFromLink takes deliveries from the beginning of b, which came on a consume link, and
// tells how many octets it took. See RunFromHome.
func (c *Conn) RunFromLink(i int, b []byte, out *Out) (taken int) {
	l := c.links[i]
	passed := 0 // from where on all is for the client
	for l.to.Reads && l.state == linkUp && c.phase != parted {
		method, head, body := frame.Whole(b[taken:])
		if method == 0 || max(method, head, body) > c.cfg.FrameMax+frame.Overhead {
			break
		}
		r := l.reader(frame.Frame(b[taken:]).Channel())
		at := frame.TagAt(frame.Frame(b[taken : taken+method]))
		if r == nil || r.m == nil || at == 0 || r.stage < readerSubscribing || r.content.busy() {
			break
		}
		n := method + head + body
		if !c.arrived(r, b[taken:taken+n:taken+n], at, out) {
			out.Client.view(b[passed:taken])
			passed = taken + n
		}
		taken += n
	}
	out.Client.view(b[passed:taken])
	return taken
}

func (l *link) reader(n uint16) *reader {
	if int(n) < len(l.readers) {
		return l.readers[n]
	}
	return nil
}

// readerFrame takes a frame on a channel of a consume link.
func (c *Conn) readerFrame(l *link, n uint16, f frame.Frame, out *Out) error {
	r := l.reader(n)
	if r == nil {
		return &frame.ConnError{Code: frame.ChannelErrorCode, Text: fmt.Sprintf("a frame on channel %d, which is not open", n)}
	}
	if f.Type() == frame.TypeMethod && !f.Method().HasContent() {
		c.readerMethod(r, f, out)
		return nil
	}
	if f.Type() == frame.TypeMethod {
		r.content.begin()
		r.partial = append(r.partial[:0], f...)
		return nil
	}
	if !r.content.busy() {
		return nil // nobody has asked for it
	}
	r.content.next(f)
	if r.stage != readerClosing {
		r.partial = append(r.partial, f...)
	}
	if r.content.busy() || r.stage == readerClosing {
		return nil
	}
	if at := frame.TagAt(frame.First(r.partial)); at > 0 && c.arrived(r, r.partial, at, out) {
		out.Client.own(r.partial)
	}
	if cap(r.partial) > maxPartial {
		r.partial = nil
	}
	return nil
}

func (c *Conn) readerMethod(r *reader, f frame.Frame, out *Out) {
	switch m := f.Method(); {
	case m == frame.ChannelClose:
		to := out.to(r.link)
		to.built(to.build(r.number, frame.ChannelCloseOk))
		if r.stage != readerClosing {
			c.readerRefused(r, f, out)
		}
	case m == frame.ChannelCloseOk:
		c.readerEnded(r, out)
	case r.stage == readerClosing:
	case m == frame.QueueDeclareOk:
		c.counted(r, f, out)
	case m == frame.BasicConsumeOk && r.stage == readerSubscribing:
		r.stage, r.began = readerReading, c.now.Add(1)
		c.tellReading(r, out)
		c.adjust(r, out)
	case m == frame.BasicCancelOk:
		if r.stage == readerPausing {
			r.stage = readerPaused
		}
		c.goOnReading(r, out)
	case m == frame.BasicCancel: // its queue was deleted, or its node is down
		c.readerLost(r, out)
	case m == frame.BasicRecoverOk:
		r.recovers = max(r.recovers-1, 0)
	case m == frame.BasicGetEmpty && r.m == nil:
		c.farGetEmpty(r, out)
	}
}

// counted takes what the broker says of a shard before it is consumed, and before it is consumed
// anew: whoever else consumes it has it still, whatever was told.
func (c *Conn) counted(r *reader, f frame.Frame, out *Out) {
	r.asks = false
	a := f.Args()
	a.ShortStr()
	a.Long()
	consumers := a.Long()
	switch {
	case !a.OK() || r.leaving:
	case r.stage == readerAsking && consumers == 0:
		c.subscribe(r, out)
	case r.stage == readerReading && consumers == 1:
		r.alone = true
		c.adjust(r, out)
	}
}

// askFor asks how many consume the shard of a reader.
func (c *Conn) askFor(r *reader, out *Out) {
	r.asks = true
	to := out.to(r.link)
	to.built(to.build(r.number, frame.QueueDeclare).Short(0).ShortStr(r.shard.Queue).Octet(1).Table(nil))
}

// subscribe consumes. What the client said with its consume goes along, but for no-ack: what
// it has not been sent must not be lost.
func (c *Conn) subscribe(r *reader, out *Out) {
	r.stage, r.alone = readerSubscribing, false
	to := out.to(r.link)
	if r.qos != r.prefetch {
		r.qos = r.prefetch
		to.built(to.build(r.number, frame.BasicQos).Long(0).Short(uint16(r.prefetch)).Octet(0))
	}
	flags := r.m.flags &^ (consumeNoAck | consumeExclusive | consumeNoWait)
	if r.m.ordered && (!r.shard.Single && !r.shard.Quorum) != (r.refused > 1) {
		flags |= consumeExclusive
	}
	to.own(frame.Build(nil, r.number, frame.BasicConsume).Short(0).ShortStr(r.shard.Queue).ShortStr(r.upTag()).Octet(flags).Table(r.m.args).End())
}

// upTag is the consumer tag at the broker. It is the client's, so that nothing of a delivery's
// but two fixed fields has to be changed. Each time that a channel consumes anew it is another
// one of the same length: what the channel has of the consumer before must not count for the
// new one. Who looks at the broker's consumers is to know it: its first letter is in the other
// case. Where that is no letter its last octet differs, which leaves UTF-8 what it is.
func (r *reader) upTag() string {
	tag := r.m.tag
	if !r.varied {
		return tag
	}
	if other := tag[0] ^ 0x20; other|0x20 >= 'a' && other|0x20 <= 'z' {
		return string(rune(other)) + tag[1:]
	}
	last := len(tag) - 1
	return tag[:last] + string([]byte{tag[last] ^ 1})
}

// want has a reader consume with another prefetch.
func (c *Conn) want(r *reader, prefetch int, out *Out) {
	if r.prefetch == prefetch {
		return
	}
	r.prefetch = prefetch
	if r.stage == readerPaused {
		c.goOnReading(r, out)
	} else {
		c.adjust(r, out)
	}
}

// adjust has a reader consume anew if its prefetch is another by now: it can't be changed under
// a consumer. It waits for its consume-ok: RabbitMQ 3.10 crashes the channel of a consumer that
// is cancelled before that. In an ordered group it waits, too, until the broker has no other
// consumer: one that has asked at the same moment would get what is behind the messages that
// the client has not settled.
func (c *Conn) adjust(r *reader, out *Out) {
	if r.stage != readerReading || r.leaving || r.qos == r.prefetch {
		return
	}
	if r.m.ordered && !r.alone {
		if !r.asks {
			c.askFor(r, out)
		}
		return
	}
	r.stage = readerPausing
	to := out.to(r.link)
	to.built(to.build(r.number, frame.BasicCancel).ShortStr(r.upTag()).Bit(false))
	if r.m.ordered { // at once, before anybody is told that the shard is free
		r.varied = !r.varied
		c.subscribe(r, out)
	}
}

// goOnReading consumes again when there is room, and closes a reader that leaves when all is
// settled.
func (c *Conn) goOnReading(r *reader, out *Out) {
	switch {
	case r.stage >= readerClosing:
	case r.leaving && r.unacked == 0: // for a no-ack consumer: all is written
		c.closeReader(r, out)
	case r.leaving || r.stage != readerPaused:
	case r.prefetch == 0 || r.unacked+len(r.waiting) < r.prefetch:
		r.varied = !r.varied
		c.subscribe(r, out)
	}
}
