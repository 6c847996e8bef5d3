package fakebroker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"amqproxy/frame"
)

// floodBuffer is about how much of a flood is written at once.
const floodBuffer = 256 << 10

// sinkConsumer is one consumer.
type sinkConsumer struct {
	channel uint16
	tag     string
	sent    uint64 // the last delivery tag
	stopped atomic.Bool
}

// consume begins a consumer, as its arguments say.
func (c *sink) consume(ch *sinkChannel, f frame.Frame) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	k := &sinkConsumer{channel: ch.number, tag: string(a.ShortStr())}
	a.Bit()
	a.Bit()
	a.Bit()
	nowait, args := a.Bit(), a.Table()
	if k.tag == "" {
		ch.tags++
		k.tag = fmt.Sprintf("amq.ctag-%d", ch.tags)
	}
	if ch.consumers == nil {
		ch.consumers = map[string]*sinkConsumer{}
	}
	ch.consumers[k.tag] = k
	if !nowait {
		c.out = frame.Build(c.out, ch.number, frame.BasicConsumeOk).ShortStr(k.tag).End()
	}
	if on, _, _ := args.Find("x-echo"); on.Type == 't' && on.Value[0] != 0 {
		c.echo = k
	}
	if count := intArg(args, "x-flood"); count != 0 {
		c.flush() // consume-ok first
		exchange, _, _ := args.Find("x-exchange")
		buf := k.deliveries(bytes.Clone(exchange.Value), int(intArg(args, "x-size")))
		c.floods.Go(func() { c.flood(k, buf, count) })
	}
}

func intArg(args frame.Table, key string) int64 {
	f, found, _ := args.Find(key)
	if !found {
		return 0
	}
	n, _ := f.Int()
	return n
}

func (c *sink) cancel(ch *sinkChannel, f frame.Frame) {
	a := f.Args()
	tag, nowait := string(a.ShortStr()), a.Bit()
	if k := ch.consumers[tag]; k != nil {
		c.stop(k)
		delete(ch.consumers, tag)
	}
	if !nowait {
		c.out = frame.Build(c.out, ch.number, frame.BasicCancelOk).ShortStr(tag).End()
	}
}

func (c *sink) stop(k *sinkConsumer) {
	k.stopped.Store(true)
	if c.echo == k {
		c.echo = nil
	}
}

// appendDeliver appends the method of the next delivery.
func (k *sinkConsumer) appendDeliver(dst, exchange, key []byte) []byte {
	k.sent++
	return frame.Build(dst, k.channel, frame.BasicDeliver).ShortStr(k.tag).LongLong(k.sent).Bit(false).
		ShortStr(string(exchange)).ShortStr(string(key)).End()
}

// batch are deliveries that lie one behind the other, all of one size.
type batch struct {
	bytes []byte
	size  int // of one
	tagAt int // where in one its delivery tag lies
}

// deliveries makes some that fill a buffer, and a whole one at least.
func (k *sinkConsumer) deliveries(exchange []byte, body int) batch {
	var b batch
	content := bytes.Repeat([]byte{'x'}, body)
	for n := 0; n == 0 || len(b.bytes)+b.size <= floodBuffer; n++ {
		at := len(b.bytes)
		b.bytes = k.appendDeliver(b.bytes, exchange, fmt.Appendf(nil, "key-%06d", n))
		b.bytes = frame.AppendContent(b.bytes, k.channel, persistent, content, frameMax)
		b.size = len(b.bytes) - at
	}
	k.sent = 0
	b.tagAt = frame.Overhead - 1 + 4 + 1 + len(k.tag)
	return b
}

// persistent are the properties of a persistent message with an empty headers table,
// as a message has that came by a stream.
var persistent = []byte{(frame.FlagHeaders | frame.FlagDeliveryMode) >> 8, 0, 0, 0, 0, 0, 2}

// flood writes count deliveries, or without end.
func (c *sink) flood(k *sinkConsumer, b batch, count int64) {
	tag := uint64(0)
	for count < 0 || tag < uint64(count) {
		n := len(b.bytes) / b.size
		if count > 0 {
			n = min(n, int(uint64(count)-tag))
		}
		for i := range n {
			tag++
			binary.BigEndian.PutUint64(b.bytes[i*b.size+b.tagAt:], tag)
		}
		if !c.deliver(k, b.bytes[:n*b.size]) {
			return
		}
	}
}

// deliver writes deliveries, but none behind the answer to what stopped k.
func (c *sink) deliver(k *sinkConsumer, b []byte) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	if k.stopped.Load() {
		return false
	}
	_, err := c.Write(b)
	return err == nil
}
