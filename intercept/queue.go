package intercept

import (
	"fmt"

	"amqproxy/frame"
	"amqproxy/shard"
)

// queueName is the queue that a client's method means: an empty name is the
// queue declared last on the channel, which may have been a virtual one.
func (ch *channel) queueName(name []byte) []byte {
	if len(name) == 0 && ch.lastQueue != "" {
		return []byte(ch.lastQueue)
	}
	return name
}

// queueDeclare answers a passive declare of a virtual queue with sums. An active
// one is refused, or answered as if V were one queue, if the definition says so.
func (c *Conn) queueDeclare(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := a.ShortStr() // "" asks for a name here, and means no queue of before
	passive, durable, exclusive, autoDelete := a.Bit(), a.Bit(), a.Bit(), a.Bit()
	a.Bit()
	args := a.Table()
	table, verdict := c.find(name)
	switch {
	case !a.OK() || verdict.Passes():
		ch.lastQueue = ""
		c.forward(ch, f, out)
		return
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
		return
	case c.awaitReplies(ch, f):
		return
	case !passive && table.Settings.QueueDeclare == shard.DeclareRefuse:
		c.refuse(ch, f, string(name), out)
		return
	}
	if !passive {
		if e := queueAsked(table, durable, exclusive, autoDelete, args, c.cfg.VHost); e != nil {
			e.Method = f.Method()
			c.fail(ch, e, out)
			return
		}
	}
	c.errand(ch, f, Errand{Kind: Count, Stream: shard.Name{VHost: c.cfg.VHost, Stream: table.Stream}}, out)
}

// queueAsked tells what of an active declare of V differs from what its shards
// are, in RabbitMQ's words. An argument that the client leaves out is the
// definition's business.
func queueAsked(t *shard.Table, durable, exclusive, autoDelete bool, args frame.Table, vhost string) *frame.ChannelError {
	differs := func(arg, received, current string) *frame.ChannelError {
		return &frame.ChannelError{Code: frame.PreconditionFailed, Text: fmt.Sprintf(
			"inequivalent arg '%s' for queue '%s' in vhost '%s': received '%s' but current is '%s'", arg, t.Stream, vhost, received, current)}
	}
	switch {
	case exclusive:
		return &frame.ChannelError{Code: frame.ResourceLocked, Text: fmt.Sprintf(
			"cannot obtain exclusive access to stream '%s' in vhost '%s'", t.Stream, vhost)}
	case !durable:
		return differs("durable", "false", "true")
	case autoDelete:
		return differs("auto_delete", "true", "false")
	}
	for len(args) > 0 {
		key, v, rest, ok := args.Next()
		if !ok {
			return refusal(0, "malformed arguments")
		}
		args = rest
		current, set := t.Settings.QueueArguments[string(key)]
		if string(key) == "x-queue-type" && !set {
			current, set = "classic", true
		}
		if !set {
			return differs(string(key), plainText(v), "none")
		}
		if !equals(v, current) {
			return differs(string(key), plainText(v), fmt.Sprint(current))
		}
	}
	return nil
}

func plainText(v frame.Field) string {
	if text, plain := v.Text(); plain {
		return text
	}
	return v.String()
}

// equals compares an argument with the definition's. Integers of any width are
// equal, a number and its text are not.
func equals(v frame.Field, current any) bool {
	if text, isText := current.(string); isText {
		return v.Type == 'S' && string(v.Value) == text
	}
	if _, isBool := current.(bool); isBool != (v.Type == 't') || v.Type == 'S' || v.Type == 'x' {
		return false
	}
	text, plain := v.Text()
	return plain && text == fmt.Sprint(current)
}

// countAnswered answers a declare of V with the sums over its shards.
func (c *Conn) countAnswered(ch *channel, f frame.Frame, a Answer, out *Out) {
	args := f.Args()
	args.Short()
	name := string(args.ShortStr())
	ch.lastQueue = name
	if !nowait(f) {
		c.toClient(ch, frame.Build(nil, ch.number, frame.QueueDeclareOk).ShortStr(name).Long(a.Messages).Long(a.Consumers).End(), out)
	}
}

// queueBind refuses bindings of a virtual queue, and of any queue to a stream's
// exchange. To unbind an ordinary queue from it is let through: that heals.
func (c *Conn) queueBind(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	queue, exchange := ch.queueName(a.ShortStr()), a.ShortStr()
	table, verdict := c.find(queue)
	from, fromVerdict := c.exchange(exchange)
	bind := f.Method() == frame.QueueBind
	switch {
	case !a.OK():
		c.forward(ch, f, out)
	case verdict == shard.Unknown:
		c.learn(ch, f, string(queue), out)
	case bind && fromVerdict == shard.Unknown:
		c.learn(ch, f, string(exchange), out)
	case table != nil && table == from && table.Settings.QueueBind == shard.BindAcceptOwn:
		if !c.awaitReplies(ch, f) {
			c.replyUnless(ch, nowait(f), f.Method()+1, out)
		}
	case table != nil:
		c.refuse(ch, f, table.Stream, out)
	case bind && from != nil:
		c.refuse(ch, f, from.Stream, out)
	default:
		c.forward(ch, f, out)
	}
}

// queueSet refuses queue.purge and queue.delete of a virtual queue, or does them
// on all shards, if the definition says so.
func (c *Conn) queueSet(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := ch.queueName(a.ShortStr())
	table, verdict := c.find(name)
	switch {
	case !a.OK() || verdict.Passes():
		c.forward(ch, f, out)
		return
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
		return
	}
	e := Errand{Kind: Purge, Stream: shard.Name{VHost: c.cfg.VHost, Stream: table.Stream}}
	allowed := table.Settings.QueuePurge == shard.SetAll
	if f.Method() == frame.QueueDelete {
		e.Kind, e.IfUnused, e.IfEmpty = Destroy, a.Bit(), a.Bit()
		allowed = table.Settings.QueueDelete == shard.SetAll
	}
	switch {
	case !allowed:
		c.refuse(ch, f, table.Stream, out)
	case c.awaitReplies(ch, f):
	default:
		c.errand(ch, f, e, out)
	}
}

// setAnswered answers a purge or delete of V with the messages of all shards.
func (c *Conn) setAnswered(ch *channel, f frame.Frame, a Answer, out *Out) {
	if !nowait(f) {
		c.toClient(ch, frame.Build(nil, ch.number, f.Method()+1).Long(a.Messages).End(), out)
	}
}
