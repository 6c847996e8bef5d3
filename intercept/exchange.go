package intercept

import (
	"fmt"

	"amqproxy/frame"
	"amqproxy/shard"
)

// exchangeDeclare makes a stream of an exchange whose name matches a policy. The
// broker sees the client's own declare of a durable direct exchange, so that its
// permissions hold; the client's declare-ok waits for the shards.
func (c *Conn) exchangeDeclare(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name, kind := string(a.ShortStr()), string(a.ShortStr())
	passive, durable, autoDelete, internal := a.Bit(), a.Bit(), a.Bit(), a.Bit()
	a.Bit()
	args := a.Table()
	settings, match := c.snap.Match(c.cfg.VHost, name)
	if !a.OK() || !match {
		c.forward(ch, f, out)
		return
	}
	table, verdict := c.exchange([]byte(name))
	if passive { // the broker knows; a stream that nobody remembers is adopted
		if verdict == shard.Unknown {
			c.learn(ch, f, name, out)
			return
		}
		c.forward(ch, f, out)
		return
	}
	if c.awaitReplies(ch, f) {
		return
	}
	asked := shard.Declared{Type: kind, Durable: durable}
	err := askedHash(&asked, args)
	if err == nil {
		err = c.acceptable(name, settings, asked, autoDelete, internal, args)
	}
	if err == nil && table != nil {
		err = table.Equivalent(asked)
	}
	if err != nil {
		c.fail(ch, refusal(f.Method(), err.Error()), out)
		return
	}
	// Who publishes to it must wait from before the exchange is there until its
	// shards are: RabbitMQ confirms what it drops in between.
	c.errand(ch, f, Errand{Kind: Declare, Stream: shard.Name{VHost: c.cfg.VHost, Stream: name}, Declared: asked}, out)
}

// declareUp sends the declare to the broker.
func (c *Conn) declareUp(ch *channel, w wait, out *Out) {
	ch.wait = wait{what: waitDeclareOk, frame: w.frame, asked: w.asked, name: w.name}
	out.Home.built(out.Home.build(ch.number, frame.ExchangeDeclare).Short(0).ShortStr(w.name).ShortStr("direct").
		Bit(false).Bit(true).Bit(false).Bit(false).Bit(false).Table(nil))
}

// acceptable tells what of a declare a stream can't be.
func (c *Conn) acceptable(name string, s *shard.Settings, asked shard.Declared, autoDelete, internal bool, args frame.Table) error {
	_, alternate, _ := args.Find("alternate-exchange")
	switch {
	case !shard.Partitions(asked.Type):
		return fmt.Errorf("stream '%s' can't be of type '%s', which does not partition: use one of %s", name, asked.Type, shard.PartitioningTypes)
	case autoDelete:
		return fmt.Errorf("stream '%s' can't be auto-delete: its exchange would go with its last shard", name)
	case internal:
		return fmt.Errorf("stream '%s' can't be internal: nobody could publish to it", name)
	case alternate:
		return fmt.Errorf("stream '%s' can't have an alternate-exchange: it would hide a lost shard", name)
	case asked.HashOn.Source != shard.HashUnset && s.HashOn.Source != shard.HashUnset && asked.HashOn != s.HashOn:
		return fmt.Errorf("stream '%s' hashes on %s by its definition, not on %s", name, s.HashOn, asked.HashOn)
	}
	return c.snap.CheckName(s, name)
}

// askedHash reads hash-header and hash-property, the arguments of the
// consistent-hash exchange.
func askedHash(asked *shard.Declared, args frame.Table) error {
	header, byHeader, _ := args.Find("hash-header")
	property, byProperty, _ := args.Find("hash-property")
	text, word := "", ""
	switch {
	case byHeader && byProperty:
		return fmt.Errorf("hash-header and hash-property exclude each other")
	case byHeader:
		text, word = "header:", string(header.Value)
	case byProperty:
		text, word = "property:", string(property.Value)
	default:
		return nil
	}
	if header.Type != 'S' && property.Type != 'S' {
		return fmt.Errorf("hash-header and hash-property are strings")
	}
	on, err := shard.ParseHashOn(text + word)
	asked.HashOn = on
	return err
}

// inTheWay explains the broker's refusal of a stream's declare for an exchange
// that is there with another type, such as the plugins leave it.
func (c *Conn) inTheWay(ch *channel, f frame.Frame) frame.Frame {
	a := f.Args()
	code, text := a.Short(), string(a.ShortStr())
	if class, id := a.Short(), a.Short(); code != frame.PreconditionFailed || class != frame.ExchangeDeclare.Class() || id != frame.ExchangeDeclare.ID() {
		return f
	}
	e := refusal(frame.ExchangeDeclare, fmt.Sprintf("exchange '%s' is there and is no stream's: delete it (its queues keep their messages) and declare it again; the broker said: %s", ch.wait.name, text))
	return frame.AppendChannelClose(nil, ch.number, e)
}

// exchangeDelete lets the broker delete the exchange; the shards and what is in
// them stay, and a later declare adopts them.
func (c *Conn) exchangeDelete(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	name := a.ShortStr()
	_, verdict := c.exchange(name)
	switch {
	case !a.OK() || verdict.Passes():
		c.forward(ch, f, out)
	case verdict == shard.Unknown:
		c.learn(ch, f, string(name), out)
	case c.awaitReplies(ch, f):
	default:
		c.errand(ch, f, Errand{Kind: Delete, Stream: shard.Name{VHost: c.cfg.VHost, Stream: string(name)}}, out)
	}
}

// deleteUp sends the delete to the broker.
func (c *Conn) deleteUp(ch *channel, w wait, out *Out) {
	a := w.frame.Args()
	a.Short()
	a.ShortStr()
	ch.wait = wait{what: waitDeleteOk, frame: w.frame, name: w.name}
	out.Home.built(out.Home.build(ch.number, frame.ExchangeDelete).Short(0).ShortStr(w.name).Bit(a.Bit()).Bit(false))
}

// exchangeAnswered takes declare-ok and delete-ok; true when they are about a
// stream and the client's answer comes later.
func (c *Conn) exchangeAnswered(ch *channel, m frame.Method, out *Out) bool {
	kind := Make
	switch {
	case ch.wait.what == waitDeclareOk && m == frame.ExchangeDeclareOk:
	case ch.wait.what == waitDeleteOk && m == frame.ExchangeDeleteOk:
		kind = Forget
	default:
		return false
	}
	w := ch.wait
	c.errand(ch, w.frame, Errand{Kind: kind, Stream: shard.Name{VHost: c.cfg.VHost, Stream: w.name}, Declared: w.asked, Held: ch.holds != ""}, out)
	ch.holds = "" // the node ends it with the errand
	return true
}

// exchangeBind refuses to bind anything to a stream or a stream to anything: the
// broker confirms a message that any queue took, and the shard's loss would not
// show.
func (c *Conn) exchangeBind(ch *channel, f frame.Frame, out *Out) {
	a := f.Args()
	a.Short()
	for _, name := range [][]byte{a.ShortStr(), a.ShortStr()} {
		switch _, verdict := c.exchange(name); verdict {
		case shard.IsStream:
			c.refuse(ch, f, string(name), out)
			return
		case shard.Unknown:
			c.learn(ch, f, string(name), out)
			return
		}
	}
	c.forward(ch, f, out)
}

// learn asks whether name is a stream and takes the frame again then.
func (c *Conn) learn(ch *channel, f frame.Frame, name string, out *Out) {
	c.errand(ch, f, Errand{Kind: Learn, Stream: shard.Name{VHost: c.cfg.VHost, Stream: name}}, out)
}

// refuse closes the channel because the method can't be had on stream name.
func (c *Conn) refuse(ch *channel, f frame.Frame, name string, out *Out) {
	if t, _ := c.find([]byte(name)); t != nil {
		c.tally.stream(t.Counters).refused++
	}
	c.fail(ch, refusal(f.Method(), fmt.Sprintf("%s can't be used on stream '%s' in vhost '%s'", f.Method(), name, c.cfg.VHost)), out)
}

func refusal(m frame.Method, text string) *frame.ChannelError {
	return &frame.ChannelError{Code: frame.PreconditionFailed, Text: text, Method: m}
}
