package intercept

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"amqproxy/frame"
	"amqproxy/shard"
)

// basicConsume on a virtual queue becomes one on a local shard, which the node
// picks; all that the client says beside the queue goes through.
func (c *Conn) basicConsume(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := ch.queueName(a.ShortStr())
	_, verdict := c.find(name)
	switch {
	case !a.OK() || verdict.Passes():
		c.forward(ch, f, out)
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
	default:
		c.errand(ch, f, Errand{Kind: Pick, Stream: shard.Name{VHost: c.vhost, Stream: string(name)}}, out)
	}
}

// consumeFrom sends a consume to the shard that was picked. A consumer without a
// tag gets one here, in the broker's manner: its place on the shard is known by it.
func (c *Conn) consumeFrom(ch *channel, f frame.Frame, queue string, out *Out) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	tag, flags, args := string(a.ShortStr()), a.Octet(), a.Table()
	if tag == "" {
		random := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, c.random()), c.random())
		tag = "amq.ctag-" + hex.EncodeToString(random)
	}
	if ch.consumers == nil {
		ch.consumers = map[string]string{}
	}
	if old, twice := ch.consumers[tag]; twice { // the broker will end the connection for it
		out.Released = append(out.Released, old)
	}
	ch.consumers[tag] = queue
	c.forward(ch, frame.Build(nil, ch.number, frame.BasicConsume).Short(0).ShortStr(queue).ShortStr(tag).Octet(flags).Table(args).End(), out)
}

// basicCancel lets a cancel through; one without an answer ends the consumer now.
func (c *Conn) basicCancel(ch *channel, f frame.Frame, out *Out) {
	if nowait(f) {
		c.consumerEnded(ch, f, out)
	}
	c.forward(ch, f, out)
}

// consumerEnded takes a cancel or cancel-ok: the place on the shard is free.
func (c *Conn) consumerEnded(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	tag := a.ShortStr()
	if queue, ours := ch.consumers[string(tag)]; ours {
		delete(ch.consumers, string(tag))
		out.Released = append(out.Released, queue)
	}
}

// basicGet on a virtual queue tries the local shards one after the other, each
// time beginning behind the one that answered last.
func (c *Conn) basicGet(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := ch.queueName(a.ShortStr())
	table, verdict := c.find(name)
	switch {
	case !a.OK() || verdict.Passes():
		c.forward(ch, f, out)
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
	case len(table.Locals()) == 0:
		c.fail(ch, noLocalShard(f.Method(), table.Stream, c.vhost), out)
	case c.awaitReplies(ch, f):
	default:
		if ch.nextGet < 0 { // many channels that get once must not all ask the same shard
			ch.nextGet = int(c.random() % uint64(len(table.Locals())))
		}
		ch.wait = wait{what: waitGet, frame: append(frame.Frame(nil), f...), table: table, left: len(table.Locals())}
		c.nextShard(ch, out)
	}
}

func noLocalShard(m frame.Method, stream, vhost string) *frame.ChannelError {
	return &frame.ChannelError{Code: frame.NotFound, Method: m,
		Text: fmt.Sprintf("stream '%s' in vhost '%s' has no shard on this node", stream, vhost)}
}

// nextShard asks the next shard in rotation for a message.
func (c *Conn) nextShard(ch *channel, out *Out) {
	w := &ch.wait
	w.left--
	locals := w.table.Locals()
	ch.nextGet = (ch.nextGet + 1) % len(locals)
	a := w.frame.Args()
	a.Short()
	a.ShortStr()
	queue := w.table.Shards[locals[ch.nextGet]].Queue
	out.Home.built(out.Home.build(ch.number, frame.BasicGet).Short(0).ShortStr(queue).Octet(a.Octet()))
}

// getAnswered takes get-ok and get-empty; true when they are about a stream.
func (c *Conn) getAnswered(ch *channel, f frame.Frame, out *Out) bool {
	if f.Method() == frame.BasicGetOk {
		c.delivered(ch, f)
	}
	if ch.wait.what != waitGet {
		return false
	}
	if f.Method() == frame.BasicGetEmpty && ch.wait.left > 0 {
		c.nextShard(ch, out)
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
