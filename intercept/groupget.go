package intercept

import (
	"encoding/binary"
	"fmt"
	"slices"

	"amqproxy/frame"
	"amqproxy/shard"
)

// farGet is a basic.get on a virtual queue whose consumers are a group: it tries the shards
// of all nodes, each at its own broker, by a reader that the channel keeps for the next one.
type farGet struct {
	shards []shard.Shard
	left   int // how many are still to be asked
	noAck  bool
	asked  *reader // who asks now
	holds  string  // the shard that is asked, if it may be deleted
	dials  bool    // its link is being opened
	next   int     // rotation
}

// getAnywhere begins a get.
func (c *Conn) getAnywhere(ch *channel, f frame.Frame, t *shard.Table, noAck bool, out *Out) {
	refuse := func(code uint16, format string) {
		c.fail(ch, &frame.ChannelError{Code: code, Method: f.Method(), Text: fmt.Sprintf(format, t.Stream, c.cfg.VHost)}, out)
	}
	switch {
	case ch.tx:
		refuse(frame.PreconditionFailed, "a transaction can't reach the shards of stream '%s' in vhost '%s'")
		return
	case !c.cfg.KnowsLogin:
		refuse(frame.AccessRefused, "a get from stream '%s' in vhost '%s' needs a login with PLAIN or AMQPLAIN, which the proxy can use for the shards")
		return
	case c.awaitReplies(ch, f):
		return
	}
	begun := ch.feed != nil
	g := &ch.feeds().get
	if !begun { // many channels that get once must not all ask the same shard
		g.next = int(c.random() % uint64(max(len(t.All()), 1)))
	}
	g.shards, g.left, g.noAck = t.All(), len(t.All()), noAck
	ch.wait = wait{what: waitFarGet}
	c.farGetNext(ch, out)
}

// farGetNext asks the next shard, or tells the client that all are empty.
func (c *Conn) farGetNext(ch *channel, out *Out) {
	g := &ch.feed.get
	g.asked, g.dials = nil, false
	if g.holds != "" {
		c.freeShard(g.holds, out)
		g.holds = ""
	}
	for g.left > 0 {
		s := g.shards[g.next%len(g.shards)]
		l := c.readLink(s, out)
		if l == nil && c.comes(s) {
			g.dials = true
			return
		}
		g.left--
		g.next = (g.next + 1) % len(g.shards)
		r := c.getter(ch, l, out)
		if r == nil || c.snap.Standing(c.cfg.VHost, s.Queue) == shard.Closing {
			continue
		}
		g.asked = r
		if !g.noAck && c.snap.Standing(c.cfg.VHost, s.Queue) > shard.InUse {
			g.holds = s.Queue
			c.holdShard(s.Queue, out)
		}
		to := out.to(l)
		flags := byte(0)
		if g.noAck {
			flags = getNoAck
		}
		to.built(to.build(r.number, frame.BasicGet).Short(0).ShortStr(s.Queue).Octet(flags))
		return
	}
	ch.wait = wait{}
	c.toClient(ch, frame.Build(nil, ch.number, frame.BasicGetEmpty).ShortStr("").End(), out)
	c.resume(ch, out)
}

// comes tells whether the link that a shard is read by is being opened.
func (c *Conn) comes(s shard.Shard) bool {
	return c.dialling(s.Node) || c.snap.Broker(s.Node).Beside && c.dialling(c.snap.Node())
}

// getter is the channel's reader on a link that is up; nil if there is none to be had.
func (c *Conn) getter(ch *channel, l *link, out *Out) *reader {
	if l == nil {
		return nil
	}
	for _, r := range ch.feed.getters {
		if r.link == l {
			return r
		}
	}
	r := &reader{ch: ch, stage: readerReading}
	if !c.openReader(r, l, out) {
		return nil
	}
	r.source = ch.feed.source(r)
	ch.feed.getters = append(ch.feed.getters, r)
	return r
}

// awaits tells whether the channel waits for this reader's answer.
func (ch *channel) awaits(r *reader) bool {
	return ch.wait.what == waitFarGet && ch.feed != nil && ch.feed.get.asked == r
}

func (c *Conn) farGetEmpty(r *reader, out *Out) {
	if r.ch.awaits(r) {
		c.farGetNext(r.ch, out)
	}
}

// farGetOk takes a message that was got.
func (c *Conn) farGetOk(r *reader, b []byte, tagAt int, out *Out) {
	ch := r.ch
	if !ch.awaits(r) {
		return
	}
	d := &ch.feed.deliveries
	var tag uint64
	if ch.feed.get.noAck {
		tag = d.next()
	} else {
		up := binary.BigEndian.Uint64(b[tagAt:])
		tag = d.add(up, r.source)
		r.unacked++
		if g := &ch.feed.get; g.holds != "" {
			r.got = append(r.got, unacked{up, g.holds})
			g.holds = ""
		}
	}
	binary.BigEndian.PutUint64(b[tagAt:], tag)
	frame.Readdress(b, ch.number)
	c.delivered(ch, frame.First(b))
	c.toClient(ch, b, out)
	ch.wait, ch.feed.get.asked = wait{}, nil
	c.resume(ch, out)
}

// farGetLost goes on with the next shard when a reader is lost, the queue or its node for
// example.
func (c *Conn) farGetLost(r *reader, out *Out) {
	if r.ch.awaits(r) {
		c.farGetNext(r.ch, out)
	}
}

// farGetGoesOn goes on with a get that waits for a link.
func (c *Conn) farGetGoesOn(ch *channel, out *Out) {
	if ch.wait.what == waitFarGet && ch.feed.get.dials {
		c.farGetNext(ch, out)
	}
}

// freeGot says that a getter's message up is settled, or all up to it; all of them with 0.
func (c *Conn) freeGot(r *reader, up uint64, multiple bool, out *Out) {
	r.got = slices.DeleteFunc(r.got, func(u unacked) bool {
		is := up == 0 || u.tag == up || multiple && u.tag < up
		if is {
			c.freeShard(u.queue, out)
		}
		return is
	})
}

func (ch *channel) dropGetter(r *reader) {
	if ch.feed == nil {
		return
	}
	for i, k := range ch.feed.getters {
		if k == r {
			ch.feed.getters = append(ch.feed.getters[:i], ch.feed.getters[i+1:]...)
			return
		}
	}
}
