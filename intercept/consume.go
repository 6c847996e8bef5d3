package intercept

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"amqproxy/frame"
	"amqproxy/shard"
)

// consumer reads a shard.
type consumer struct {
	stream  string // whose queue the client named; "" if it named the shard itself
	queue   string // the shard; "" on its way from one to the next
	flags   byte
	args    frame.Table
	watched bool
	moving  bool // it is to leave its shard, see move
	ending  bool // the client has cancelled it
}

// The flags of basic.consume, and that of basic.get.
const (
	consumeNoAck     = 1 << 1
	consumeExclusive = 1 << 2
	consumeNoWait    = 1 << 3
	getNoAck         = 1 << 0
)

// leaves gives the node back what it has for a consumer: its place, or the hold on
// a shard that the client named.
func (c *Conn) leaves(k consumer, out *Out) {
	switch {
	case k.stream == "" && k.watched:
		c.freeShard(k.queue, out)
	case k.stream != "" && k.queue != "":
		out.Released = append(out.Released, k.queue)
	}
}

// basicConsume on a virtual queue becomes one on a local shard, which the node
// picks; all that the client says beside the queue goes through.
func (c *Conn) basicConsume(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name, tag := ch.queueName(a.ShortStr()), string(a.ShortStr())
	table, verdict := c.find(name)
	switch {
	case ch.member(tag) != nil: // its broker does not know of it
		c.reusesTag(tag, out)
	case !a.OK() || verdict.Passes() && c.snap.Standing(c.cfg.VHost, string(name)) == shard.NoShard:
		c.forward(ch, f, out)
	case (ch.cancels > 0 || ch.knows(tag)) && c.awaitReplies(ch, f): // a cancel-ok for its tag would end it
	case verdict.Passes():
		c.consumeFrom(ch, f, "", string(name), out)
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
	case c.otherMode(ch, f, table, out):
	case table.Settings.Consumers != shard.ConsumeLocal:
		c.joinGroup(ch, f, table, out)
	default:
		c.errand(ch, f, Errand{Kind: Pick, Stream: shard.Name{VHost: c.cfg.VHost, Stream: string(name)}}, out)
	}
}

// consumeFrom sends a consume to the shard that was picked for the stream, or that
// the client named. A consumer without a tag gets one here, in the broker's manner:
// its place on the shard is known by it.
func (c *Conn) consumeFrom(ch *channel, f frame.Frame, stream, queue string, out *Out) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	tag, k := string(a.ShortStr()), consumer{stream: stream, queue: queue, flags: a.Octet()}
	k.args = append(k.args, a.Table()...)
	if tag == "" {
		tag = c.newTag()
	}
	if old, twice := ch.consumers[tag]; twice && !c.stay(ch, tag, out) { // the broker will end the connection for it
		c.leaves(old, out)
	}
	c.reads(ch, tag, k, out)
	c.forward(ch, frame.Build(nil, ch.number, frame.BasicConsume).Short(0).ShortStr(queue).ShortStr(tag).Octet(k.flags).Table(k.args).End(), out)
}

// newTag is a consumer tag in the broker's manner.
func (c *Conn) newTag() string {
	random := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, c.random()), c.random())
	return "amq.ctag-" + hex.EncodeToString(random)
}

// reads notes that a consumer reads its shard from now on. One that named the shard
// has no place there, so it holds it.
func (c *Conn) reads(ch *channel, tag string, k consumer, out *Out) {
	k.watched = k.flags&consumeNoAck == 0 && c.mayGo(k.queue, k.stream)
	if k.stream == "" && k.watched {
		c.holdShard(k.queue, out)
	}
	if ch.consumers == nil {
		ch.consumers = map[string]consumer{}
	}
	ch.consumers[tag] = k
	if c.mayGo(k.queue, k.stream) {
		c.watch(ch)
	}
}

// knows tells whether a tag is that of a consumer that reads a shard.
func (ch *channel) knows(tag string) bool {
	_, is := ch.consumers[tag]
	return is || ch.findMove(func(m move) bool { return m.tag == tag }) >= 0
}

// basicCancel lets a cancel through. One without an answer ends the consumer now,
// unless it is watched: then there has to be one, for what comes before it counts.
func (c *Conn) basicCancel(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	tag := string(a.ShortStr())
	if m := ch.member(tag); m != nil {
		c.cancelMember(ch, f, m, out)
		return
	}
	k, ours := ch.consumers[tag]
	if !nowait(f) {
		ch.cancels++
	}
	switch {
	case !ours || c.stay(ch, tag, out):
		c.forward(ch, f, out)
	case nowait(f) && !k.watched && !k.moving:
		c.consumerEnded(ch, f, out)
		c.forward(ch, f, out)
	default:
		cancelled := k.moving || k.ending
		k.ending = true
		ch.consumers[tag] = k
		if !nowait(f) {
			c.forward(ch, f, out)
		} else if !cancelled {
			c.cancel(ch, tag, out)
		}
	}
}

// consumerEnded takes a cancel or cancel-ok: the place on the shard is free. One that is
// on its way to another shard has ended, too, though a broker has no reason to say so.
func (c *Conn) consumerEnded(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	tag := string(a.ShortStr())
	if c.stay(ch, tag, out) {
		return
	}
	if k, ours := ch.consumers[tag]; ours {
		delete(ch.consumers, tag)
		c.leaves(k, out)
	}
}

// get is a basic.get that tries shards one after the other.
type get struct {
	stream string // "" if the client named the shard itself
	queues []string
	at     int // the one that was asked last
	left   int // how many are still to be asked
	noAck  bool
	holds  string // the shard of which it may bring an unacknowledged delivery
}

// basicGet on a virtual queue tries the local shards one after the other, each
// time beginning behind the one that answered last.
func (c *Conn) basicGet(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := ch.queueName(a.ShortStr())
	g := get{noAck: a.Octet()&getNoAck != 0}
	table, verdict := c.find(name)
	switch {
	case !a.OK():
		c.forward(ch, f, out)
		return
	case verdict.Passes():
		if g.noAck || c.snap.Standing(c.cfg.VHost, string(name)) == shard.NoShard {
			c.forward(ch, f, out)
			return
		}
		g.queues = []string{string(name)}
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
		return
	case table.Settings.Consumers != shard.ConsumeLocal:
		c.getAnywhere(ch, f, table, g.noAck, out)
		return
	case len(table.Sources()) == 0:
		c.fail(ch, noLocalShard(f.Method(), table.Stream, c.cfg.VHost), out)
		return
	default:
		g.stream, g.queues = table.Stream, table.Sources()
	}
	if c.awaitReplies(ch, f) {
		return
	}
	if ch.nextGet < 0 && g.stream != "" { // many channels that get once must not all ask the same shard
		ch.nextGet = int(c.random() % uint64(len(g.queues)))
	}
	g.at, g.left = max(ch.nextGet, 0), len(g.queues)
	ch.wait = wait{what: waitGet, get: g}
	if !c.nextShard(ch, out) {
		ch.wait = wait{}
		c.toClient(ch, frame.Build(nil, ch.number, frame.BasicGetEmpty).ShortStr("").End(), out)
	}
}

func noLocalShard(m frame.Method, stream, vhost string) *frame.ChannelError {
	return &frame.ChannelError{Code: frame.NotFound, Method: m,
		Text: fmt.Sprintf("stream '%s' in vhost '%s' has no shard on this node", stream, vhost)}
}

// nextShard asks the next shard in rotation for a message; false when there is
// none left. One that closes has none, by its own name neither: its node may have
// been told already that nothing of it is held here.
func (c *Conn) nextShard(ch *channel, out *Out) bool {
	g := &ch.wait.get
	for g.left > 0 {
		g.left--
		g.at = (g.at + 1) % len(g.queues)
		queue := g.queues[g.at]
		if g.stream != "" {
			ch.nextGet = g.at
		}
		if c.snap.Standing(c.cfg.VHost, queue) == shard.Closing {
			continue
		}
		if !g.noAck && c.mayGo(queue, g.stream) {
			g.holds = queue
			c.holdShard(queue, out)
		}
		flags := byte(0)
		if g.noAck {
			flags = getNoAck
		}
		out.Home.built(out.Home.build(ch.number, frame.BasicGet).Short(0).ShortStr(queue).Octet(flags))
		return true
	}
	return false
}

// getAnswered takes get-ok and get-empty; true when they are about a stream.
func (c *Conn) getAnswered(ch *channel, f frame.Frame, out *Out) bool {
	if f.Method() == frame.BasicGetOk {
		c.delivered(ch, f)
	}
	if ch.wait.what != waitGet {
		ch.homeTagged(f, ch.quiet.got())
		return false
	}
	noAck := ch.wait.get.noAck
	if queue := ch.wait.get.holds; queue != "" {
		ch.wait.get.holds = ""
		if a := f.Args(); f.Method() == frame.BasicGetOk {
			w := c.watch(ch)
			w.unacked = append(w.unacked, unacked{a.LongLong(), queue})
		} else {
			c.freeShard(queue, out)
		}
	}
	if f.Method() == frame.BasicGetEmpty && c.nextShard(ch, out) {
		return true
	}
	ch.wait = wait{}
	if f.Method() == frame.BasicGetOk {
		ch.homeTagged(f, noAck)
		ch.down.begin()
	}
	out.Client.view(f)
	c.resume(ch, out)
	return true
}
