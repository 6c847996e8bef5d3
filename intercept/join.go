package intercept

import (
	"fmt"

	"amqproxy/frame"
	"amqproxy/shard"
)

// otherMode refuses a consume on a virtual queue that expects another mode than the stream's.
func (c *Conn) otherMode(ch *channel, f frame.Frame, t *shard.Table, out *Out) bool {
	a := f.Args()
	a.Short()
	a.ShortStr()
	a.ShortStr()
	a.Octet()
	mode, text := t.Settings.Consumers.String(), ""
	switch asked, found, valid := a.Table().Find("x-group-mode"); {
	case !valid && t.Settings.Consumers == shard.ConsumeLocal: // the broker gets it, and says what it thinks of it
		return false
	case !valid:
		text = "malformed arguments"
	case found && (asked.Type != 'S' || string(asked.Value) != mode):
		text = fmt.Sprintf("inequivalent arg 'x-group-mode' for stream '%s' in vhost '%s': received '%s' but current is '%s'",
			t.Stream, c.cfg.VHost, plainText(asked), mode)
	default:
		return false
	}
	c.fail(ch, &frame.ChannelError{Code: frame.PreconditionFailed, Method: f.Method(), Text: text}, out)
	return true
}

// joinGroup takes a consume on the virtual queue of a stream whose consumers are a group.
func (c *Conn) joinGroup(ch *channel, f frame.Frame, t *shard.Table, out *Out) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	tag, flags, args := string(a.ShortStr()), a.Octet(), a.Table()
	refuse := func(code uint16, text string) {
		c.fail(ch, &frame.ChannelError{Code: code, Method: f.Method(), Text: text}, out)
	}
	switch {
	case ch.tx:
		refuse(frame.PreconditionFailed, fmt.Sprintf("a transaction can't reach the shards of stream '%s' in vhost '%s'", t.Stream, c.cfg.VHost))
		return
	case !c.cfg.KnowsLogin:
		refuse(frame.AccessRefused, fmt.Sprintf("the group of stream '%s' in vhost '%s' needs a login with PLAIN or AMQPLAIN, which the proxy can use for the shards", t.Stream, c.cfg.VHost))
		return
	case ch.knows(tag):
		c.reusesTag(tag, out)
		return
	case c.awaitReplies(ch, f):
		return
	}
	if tag == "" {
		tag = c.newTag()
		f = frame.Build(nil, ch.number, frame.BasicConsume).Short(0).ShortStr(t.Stream).ShortStr(tag).Octet(flags).Table(args).End()
	}
	c.errand(ch, f, Errand{Kind: Join, Stream: shard.Name{VHost: c.cfg.VHost, Stream: t.Stream}, Tag: tag, Exclusive: flags&consumeExclusive != 0}, out)
}

// reusesTag ends the connection, as a broker does.
func (c *Conn) reusesTag(tag string, out *Out) {
	c.Fault(&frame.ConnError{Code: frame.NotAllowed, Text: fmt.Sprintf("attempt to reuse consumer tag '%s'", tag), Method: frame.BasicConsume}, out)
}

// hasJoined begins a consumer of a group.
func (c *Conn) hasJoined(ch *channel, f frame.Frame, number uint64, stream string, out *Out) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	m := &member{number: number, ch: ch, stream: stream, tag: string(a.ShortStr()), flags: a.Octet(), limit: ch.qos}
	m.args = append(m.args, a.Table()...)
	m.counters = &shard.Counters{}
	if t, _ := c.find([]byte(stream)); t != nil {
		m.counters, m.ordered = t.Counters, t.Settings.Consumers == shard.ConsumeOrdered
	}
	ch.feeds().members = append(ch.feed.members, m)
	if c.members == nil {
		c.members = map[uint64]*member{}
	}
	c.members[number] = m
	if m.flags&consumeNoWait == 0 {
		c.toClient(ch, frame.Build(nil, ch.number, frame.BasicConsumeOk).ShortStr(m.tag).End(), out)
	}
	c.takePart(m, out)
}
