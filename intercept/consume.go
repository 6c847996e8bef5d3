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
}

// The flags of basic.consume, and that of basic.get.
const (
	consumeNoAck     = 1 << 1
	consumeExclusive = 1 << 2
	consumeNoWait    = 1 << 3
	getNoAck         = 1 << 0
)

// leaves gives the node the consumer's place back.
func (k consumer) leaves(out *Out) {
	if k.stream != "" && k.queue != "" {
		out.Released = append(out.Released, k.queue)
	}
}

// basicConsume on a virtual queue becomes one on a local shard, which the node
// picks; all that the client says beside the queue goes through.
func (c *Conn) basicConsume(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := ch.queueName(a.ShortStr())
	_, verdict := c.find(name)
	switch {
	case !a.OK():
		c.forward(ch, f, out)
	case verdict.Passes():
		if queue := string(name); c.snap.Standing(c.vhost, queue) != shard.NoShard {
			c.consumeFrom(ch, f, "", queue, out)
			return
		}
		c.forward(ch, f, out)
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
	default:
		c.errand(ch, f, Errand{Kind: Pick, Stream: shard.Name{VHost: c.vhost, Stream: string(name)}}, out)
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
		random := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, c.random()), c.random())
		tag = "amq.ctag-" + hex.EncodeToString(random)
	}
	if old, twice := ch.consumers[tag]; twice { // the broker will end the connection for it
		old.leaves(out)
	}
	c.reads(ch, tag, k)
	c.forward(ch, frame.Build(nil, ch.number, frame.BasicConsume).Short(0).ShortStr(queue).ShortStr(tag).Octet(k.flags).Table(k.args).End(), out)
}

// reads notes that a consumer reads its shard from now on.
func (c *Conn) reads(ch *channel, tag string, k consumer) {
	k.watched = k.flags&consumeNoAck == 0 && c.mayGo(k.queue, k.stream)
	if ch.consumers == nil {
		ch.consumers = map[string]consumer{}
	}
	ch.consumers[tag] = k
	if c.mayGo(k.queue, k.stream) {
		c.watch(ch)
	}
}

// basicCancel lets a cancel through; one without an answer ends the consumer now.
func (c *Conn) basicCancel(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	c.stay(ch, string(a.ShortStr()), out)
	if nowait(f) {
		c.consumerEnded(ch, f, out)
	}
	c.forward(ch, f, out)
}

// consumerEnded takes a cancel or cancel-ok: the place on the shard is free.
func (c *Conn) consumerEnded(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	tag := a.ShortStr()
	if k, ours := ch.consumers[string(tag)]; ours {
		delete(ch.consumers, string(tag))
		k.leaves(out)
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
		if g.noAck || c.snap.Standing(c.vhost, string(name)) == shard.NoShard {
			c.forward(ch, f, out)
			return
		}
		g.queues = []string{string(name)}
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
		return
	case len(table.Sources()) == 0:
		c.fail(ch, noLocalShard(f.Method(), table.Stream, c.vhost), out)
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
// none left. One that closes has none.
func (c *Conn) nextShard(ch *channel, out *Out) bool {
	g := &ch.wait.get
	for g.left > 0 {
		g.left--
		g.at = (g.at + 1) % len(g.queues)
		queue := g.queues[g.at]
		if g.stream != "" {
			ch.nextGet = g.at
			if c.snap.Standing(c.vhost, queue) == shard.Closing {
				continue
			}
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
		return false
	}
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
		ch.down.begin()
	}
	out.Client.view(f)
	c.resume(ch, out)
	return true
}
