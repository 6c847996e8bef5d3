package intercept

import (
	"cmp"
	"slices"

	"amqproxy/frame"
	"amqproxy/shard"
)

// A retired shard is read until it is empty and then deleted, and deleting it takes
// deliveries along that are not acknowledged. So the node has to know of which
// shards its sessions hold some, and consumers leave a shard that closes. Only
// channels that read a retired shard, or any shard by its own name, pay for it.

// watch is what a channel knows of the shards that it reads and that may go.
type watch struct {
	unacked []unacked // by delivery tag
	moves   []move
}

// unacked is a delivery that the client has not acknowledged.
type unacked struct {
	tag   uint64
	queue string
}

// move is a consumer on its way from a shard that closes to another one. To the
// client nothing happens: its consumer tag and its deliveries stay valid.
type move struct {
	tag    string
	stage  stage
	serial uint32 // of the errand; 0 if it failed, and is to be tried again
	queue  string // where it goes
}

type stage uint8

const (
	leaving stage = iota // our basic.cancel is on its way
	asking               // the node picks another shard
	placed               // it has one, and waits for the end of what the client sends
)

// mayGo tells whether a shard may be deleted while it is read: a retired one, and
// any that the client reads by its own name, for it may retire meanwhile.
func (c *Conn) mayGo(queue, stream string) bool {
	standing := c.snap.Standing(c.cfg.VHost, queue)
	return standing > shard.InUse || stream == "" && standing != shard.NoShard
}

// watch begins the watch of a channel.
func (c *Conn) watch(ch *channel) *watch {
	if ch.watch == nil {
		ch.watch = &watch{}
		c.watching++
	}
	return ch.watch
}

// unwatch ends it, with all that the channel holds.
func (c *Conn) unwatch(ch *channel, out *Out) {
	if queue := ch.wait.get.holds; queue != "" {
		ch.wait.get.holds = ""
		c.freeShard(queue, out)
	}
	if ch.watch == nil {
		return
	}
	for _, u := range ch.watch.unacked {
		c.freeShard(u.queue, out)
	}
	for _, m := range ch.watch.moves {
		if m.stage == placed {
			out.Released = append(out.Released, m.queue)
		}
	}
	ch.watch = nil
	c.watching--
}

// holdShard counts a delivery that is or may be unacknowledged, freeShard one that
// is no more.
func (c *Conn) holdShard(queue string, out *Out) {
	if c.holds == nil {
		c.holds = map[string]int{}
	}
	if c.holds[queue]++; c.holds[queue] == 1 {
		out.Held = append(out.Held, queue)
	}
}

func (c *Conn) freeShard(queue string, out *Out) {
	if c.holds[queue]--; c.holds[queue] == 0 {
		delete(c.holds, queue)
		out.Freed = append(out.Freed, queue)
	}
}

// watchDelivery notes a delivery from a shard that is watched.
func (c *Conn) watchDelivery(ch *channel, f frame.Frame, out *Out) {
	if ch.watch == nil {
		return
	}
	a := f.Args()
	if k := ch.consumers[string(a.ShortStr())]; k.watched {
		ch.watch.unacked = append(ch.watch.unacked, unacked{a.LongLong(), k.queue})
		c.holdShard(k.queue, out)
	}
}

// acknowledged takes what ends deliveries: ack, nack, reject, and recover, after
// which they come again. In a transaction nothing is final, so there only the end
// of the channel counts. What is on its way when the client acknowledges all, or
// recovers without an answer, counts here though the broker is done with it.
func (c *Conn) acknowledged(ch *channel, f frame.Frame, out *Out) {
	if ch.watch == nil || len(ch.watch.unacked) == 0 || ch.tx {
		return
	}
	a := f.Args()
	all := ch.watch.unacked
	from, to := 0, len(all)
	if m := f.Method(); m != frame.BasicRecoverOk && m != frame.BasicRecoverAsync {
		tag := a.LongLong()
		multiple := m != frame.BasicReject && a.Bit()
		at, found := slices.BinarySearchFunc(all, tag, func(u unacked, tag uint64) int { return cmp.Compare(u.tag, tag) })
		switch {
		case multiple && tag == 0:
		case multiple && found:
			to = at + 1
		case multiple:
			to = at
		case found:
			from, to = at, at+1
		default:
			return
		}
	}
	for _, u := range all[from:to] {
		c.freeShard(u.queue, out)
	}
	if from == 0 { // mostly, and there may be many behind it
		ch.watch.unacked = all[to:]
	} else {
		ch.watch.unacked = slices.Delete(all, from, to)
	}
}

// leaveClosing has the consumers on shards that close leave them, and lets those go
// on that have a place. Nothing may come between the frames of a message.
func (c *Conn) leaveClosing(ch *channel, out *Out) {
	if ch.state != chOpen || ch.publish.state == pubPass {
		return
	}
	for at := len(ch.watch.moves) - 1; at >= 0; at-- {
		switch m := ch.watch.moves[at]; {
		case m.stage == placed:
			c.consumeAgain(ch, at, out)
		case m.stage == asking && m.serial == 0:
			c.pick(ch, at, out)
		}
	}
	var tags []string
	for tag, k := range ch.consumers {
		if k.stream != "" && !k.moving && !k.ending && c.snap.Standing(c.cfg.VHost, k.queue) == shard.Closing {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	for _, tag := range tags {
		k := ch.consumers[tag]
		k.moving = true
		ch.consumers[tag] = k
		c.cancel(ch, tag, out)
	}
}

// cancel ends a consumer at the broker; its answer is for us.
func (c *Conn) cancel(ch *channel, tag string, out *Out) {
	ch.watch.moves = append(ch.watch.moves, move{tag: tag, stage: leaving})
	ch.due++
	out.Home.built(out.Home.build(ch.number, frame.BasicCancel).ShortStr(tag).Bit(false))
}

// findMove finds a move; -1 if there is none.
func (ch *channel) findMove(which func(move) bool) int {
	if ch.watch == nil {
		return -1
	}
	return slices.IndexFunc(ch.watch.moves, which)
}

func (ch *channel) endMove(at int) { ch.watch.moves = slices.Delete(ch.watch.moves, at, at+1) }

// hasLeft takes the cancel-ok to a cancel of ours: true, and the node is asked for
// another shard, unless the client wants no consumer any more. The answer to a cancel
// of the client's comes behind it: behind one of the client's there is none of ours.
func (c *Conn) hasLeft(ch *channel, f frame.Frame, out *Out) bool {
	a := f.Args()
	tag := string(a.ShortStr())
	at := ch.findMove(func(m move) bool { return m.tag == tag && m.stage == leaving })
	if at < 0 {
		return false
	}
	k := ch.consumers[tag]
	switch {
	case !k.moving || k.ending:
		ch.endMove(at)
		c.consumerEnded(ch, f, out)
		return true
	case k.flags&consumeExclusive != 0: // the others may not be to be had alone
		c.consumerLost(ch, at, out)
		return true
	}
	c.leaves(k, out)
	k.queue = ""
	ch.consumers[tag] = k
	c.pick(ch, at, out)
	return true
}

// pick asks the node for another shard.
func (c *Conn) pick(ch *channel, at int, out *Out) {
	c.serial++
	m := &ch.watch.moves[at]
	m.stage, m.serial = asking, c.serial
	stream := shard.Name{VHost: c.cfg.VHost, Stream: ch.consumers[m.tag].stream}
	out.Errands = append(out.Errands, Errand{Kind: Pick, Channel: ch.number, Serial: c.serial, Stream: stream})
}

// hasPlace takes the node's answer for a consumer that moves; false if the errand
// was not about one.
func (c *Conn) hasPlace(ch *channel, a Answer, out *Out) bool {
	at := ch.findMove(func(m move) bool { return m.serial == a.Serial && m.stage == asking })
	if at < 0 {
		return false
	}
	m := &ch.watch.moves[at]
	switch {
	case a.Err != nil && a.Err.Code == frame.ResourceError: // nobody has said no
		m.serial = 0
		return true
	case a.Err != nil:
		c.consumerLost(ch, at, out)
		return true
	}
	m.stage, m.queue = placed, a.Queue
	if ch.state == chOpen && ch.publish.state != pubPass {
		c.consumeAgain(ch, at, out)
	}
	return true
}

// consumerLost ends a consumer that has nowhere to go. The client is told as it is
// of the deletion of a queue.
func (c *Conn) consumerLost(ch *channel, at int, out *Out) {
	tag := ch.watch.moves[at].tag
	ch.endMove(at)
	c.leaves(ch.consumers[tag], out)
	delete(ch.consumers, tag)
	if c.cfg.HearsCancel {
		c.toClient(ch, frame.Build(nil, ch.number, frame.BasicCancel).ShortStr(tag).Bit(true).End(), out)
	}
}

// consumeAgain lets a consumer go on at its new place.
func (c *Conn) consumeAgain(ch *channel, at int, out *Out) {
	m := ch.watch.moves[at]
	ch.endMove(at)
	k := ch.consumers[m.tag]
	k.queue, k.moving = m.queue, false
	c.reads(ch, m.tag, k, out)
	out.Home.own(frame.Build(nil, ch.number, frame.BasicConsume).Short(0).ShortStr(k.queue).ShortStr(m.tag).Octet(k.flags | consumeNoWait).Table(k.args).End())
}

// stay ends a consumer that has left its shard and has not come to another one;
// false if it is none of these.
func (c *Conn) stay(ch *channel, tag string, out *Out) bool {
	at := ch.findMove(func(m move) bool { return m.tag == tag && m.stage != leaving })
	if at < 0 {
		return false
	}
	if m := ch.watch.moves[at]; m.stage == placed {
		out.Released = append(out.Released, m.queue)
	}
	delete(ch.consumers, tag)
	ch.endMove(at)
	return true
}
