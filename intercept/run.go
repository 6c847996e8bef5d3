package intercept

import (
	"bytes"
	"encoding/binary"

	"amqproxy/frame"
	"amqproxy/shard"
)

// Most of what a busy session carries is one message like the other. RunFromClient
// and RunFromHome take whole messages that need nothing but what is known from the
// one before, in one go; they do what FromClient and FromHome would do, which take
// everything else.

// header is what is known of a content header that many messages have in common.
type header struct {
	like []byte // from its flags on
	seam seam
}

// maxLike bounds the headers that are remembered.
const maxLike = 256

// RunFromClient takes publishes from the beginning of b and tells how many octets it
// took.
func (c *Conn) RunFromClient(b []byte, out *Out) (taken int) {
	passed := 0 // from where on nothing is changed
	for c.phase == running {
		method, head, body := frame.Whole(b[taken:])
		if method == 0 || max(method, head, body) > c.cfg.FrameMax+frame.Overhead {
			break
		}
		f := frame.Frame(b[taken : taken+method])
		exchange, key, ok := frame.PublishArgs(f)
		ch := c.channel(f.Channel())
		if !ok || ch == nil || !ch.likeLast(exchange, c.snap) {
			break
		}
		n := method + head + body
		t := ch.lastTable
		if t == nil {
			taken += n
			ch.sent()
		} else {
			out.Home.view(b[passed:taken])
			if !c.publishWhole(ch, t, key, b[taken:taken+n], method, head, out) {
				return taken
			}
			taken += n
			passed = taken
			c.tally.stream(t.Counters).published++
		}
		c.tally.all.published++
	}
	out.Home.view(b[passed:taken])
	return taken
}

// likeLast tells whether the channel is free for a publish, and the exchange is the
// one that it published to last.
func (ch *channel) likeLast(exchange []byte, snap *shard.Snapshot) bool {
	return ch.state == chOpen && ch.wait.what == waitNothing && ch.publish.state == pubNone && len(ch.heldFrames) == 0 &&
		ch.lastSnap == snap && len(exchange) > 0 && string(exchange) == ch.lastExchange
}

// publishWhole sends message b to its shard; false if it is not plain enough.
func (c *Conn) publishWhole(ch *channel, t *shard.Table, key, b []byte, method, head int, out *Out) bool {
	if !t.ByRoutingKey() || len(t.Shards) == 0 {
		return false
	}
	f := frame.Frame(b[method : method+head])
	seam, ok := ch.seamLike(f, t.Settings.Persist)
	if !ok || seam.end != 0 || len(ch.again) > 0 {
		return false
	}
	hash := shard.KeyHash(key)
	i := t.Pick(hash)
	g := ch.route[t.NodeOf(i)]
	if g == nil || !g.usable() || len(ch.parked) > 0 || ch.ledger != nil && len(ch.ledger.probing) > 0 {
		return false
	}
	item := t.BCC(i)
	grown := seam.growth(item)
	if head+grown > c.cfg.FrameMax || len(b)+grown > chunkSize {
		return false
	}
	c.sentToStream(ch, g, t.ID(i), hash, b[method-2]&mandatory != 0)
	setMandatory(b[:method])
	if t.Settings.RetryNacked {
		c.copyWhole(ch, g, b)
	}
	to := out.to(g.link)
	if len(b)-method-head < copyBelow {
		room := append(to.room(len(b) + grown)[:0], b[:method]...)
		room = append(seam.splice(room, f, item), b[method+head:]...)
		to.added(len(room))
		return true
	}
	room := append(to.room(method + head + grown)[:0], b[:method]...)
	to.added(len(seam.splice(room, f, item)))
	to.view(b[method+head:])
	return true
}

// seamLike is the seam of a header frame, which may be known from one like it.
func (ch *channel) seamLike(f frame.Frame, persist bool) (seam, bool) {
	like := f[flagsAt : len(f)-1]
	if last := &ch.lastHeader; len(last.like) > 0 && last.seam.persist == persist && bytes.Equal(like, last.like) {
		return last.seam, true
	}
	h, ok := frame.ParseHeader(f)
	if !ok {
		return seam{}, false
	}
	s, ok := findSeam(f, h, persist)
	if ok && len(like) <= maxLike {
		ch.lastHeader = header{append(ch.lastHeader.like[:0], like...), s}
	}
	return s, ok
}

// RunFromHome does the same for deliveries.
func (c *Conn) RunFromHome(b []byte, out *Out) (taken int) {
	for c.phase != parted {
		method, head, body := frame.Whole(b[taken:])
		if method == 0 || max(method, head, body) > c.cfg.FrameMax+frame.Overhead {
			break
		}
		f := frame.Frame(b[taken : taken+method])
		exchange, ok := frame.DeliverExchange(f)
		ch := c.channel(f.Channel())
		if !ok || ch == nil || ch.watch != nil || ch.feed != nil || ch.comeback != nil || ch.down.busy() || len(ch.deferred) > 0 {
			break
		}
		if counters := c.countersOf(ch, exchange); counters != nil {
			c.tally.stream(counters).delivered++
		}
		c.tally.all.delivered++
		ch.homeTag = binary.BigEndian.Uint64(f[frame.TagAt(f):])
		taken += method + head + body
	}
	out.Client.view(b[:taken])
	return taken
}
