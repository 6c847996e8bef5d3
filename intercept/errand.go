package intercept

import (
	"amqproxy/frame"
	"amqproxy/shard"
)

// Kind is what an errand is about.
type Kind uint8

const (
	Learn   Kind = iota // ask what the name is; a new Snapshot then says so
	Declare             // an exchange.declare is about to go up; Answer.Held
	Delete              // an exchange.delete is about to go up; Answer.Held
	Make                // make the stream's shards; the exchange is there
	Forget              // the stream's exchange is gone
	Join                // make a consumer one of the stream's group; Answer.Member, which Out.Left ends
	Pick                // choose a local shard for a consumer; Answer.Queue, which Out.Released ends
	Count               // sum up messages and consumers of all shards
	Purge               // purge all shards; Answer.Messages
	Destroy             // delete all shards; Answer.Messages
)

// Errand is a question that the shell puts to the node; the channel waits.
type Errand struct {
	Channel   uint16
	Serial    uint32 // tells an answer that comes too late from one that is awaited
	Kind      Kind
	Stream    shard.Name
	Declared  shard.Declared // Make
	Held      bool           // Make: the name is held
	IfUnused  bool           // Destroy
	IfEmpty   bool           // Destroy
	Tag       string         // Join
	Exclusive bool           // Join
}

// Answer is what came of an errand.
type Answer struct {
	Channel   uint16
	Serial    uint32
	Held      string              // the name that waits for us to come to an end: Make, Forget or Out.Abandoned
	Err       *frame.ChannelError // what the client is told; its Method is filled in here
	Queue     string
	Member    uint64 // from 1 on
	Messages  uint32
	Consumers uint32
}

// errand sends the channel's current frame f on an errand and holds the channel.
func (c *Conn) errand(ch *channel, f frame.Frame, e Errand, out *Out) {
	c.serial++
	e.Channel, e.Serial = ch.number, c.serial
	ch.wait = wait{what: waitErrand, kind: e.Kind, serial: c.serial, name: e.Stream.Stream,
		asked: e.Declared, frame: append(frame.Frame(nil), f...)}
	out.Errands = append(out.Errands, e)
}

// Answered takes what came of an errand. The Snapshot that belongs to it must
// have been given to the Conn before.
func (c *Conn) Answered(a Answer, out *Out) {
	ch := c.channel(a.Channel)
	if ch != nil && c.hasPlace(ch, a, out) {
		return
	}
	if ch == nil || ch.wait.what != waitErrand || ch.wait.serial != a.Serial {
		if a.Queue != "" { // nobody will consume from it any more
			out.Released = append(out.Released, a.Queue)
		}
		if a.Member != 0 {
			out.Left = append(out.Left, a.Member)
		}
		if a.Held != "" {
			out.Abandoned = append(out.Abandoned, a.Held)
		}
		return
	}
	w := ch.wait
	ch.wait = wait{}
	ch.holds = a.Held
	if a.Err != nil {
		e := *a.Err
		e.Method = w.frame.Method()
		c.fail(ch, &e, out)
		return
	}
	switch w.kind {
	case Learn:
		c.learned = w.name
		c.clientMethod(ch, w.frame, out)
		c.learned = ""
	case Declare:
		c.declareUp(ch, w, out)
	case Delete:
		c.deleteUp(ch, w, out)
	case Make:
		c.replyUnless(ch, nowait(w.frame), frame.ExchangeDeclareOk, out)
	case Forget:
		c.replyUnless(ch, nowait(w.frame), frame.ExchangeDeleteOk, out)
	case Join:
		c.hasJoined(ch, w.frame, a.Member, w.name, out)
	case Pick:
		c.consumeFrom(ch, w.frame, w.name, a.Queue, out)
	case Count:
		c.countAnswered(ch, w.frame, a, out)
	case Purge, Destroy:
		c.setAnswered(ch, w.frame, a, out)
	}
	c.resume(ch, out)
	c.wentOn(ch, out)
}
