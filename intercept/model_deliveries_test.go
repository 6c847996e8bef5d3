package intercept

import (
	"fmt"
	"slices"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

// modelDeliveries are a channel's consumers at the model's broker, and what it was sent
// and has not acknowledged.
type modelDeliveries struct {
	consumers []brokerConsumer
	tags      uint64
	unacked   []unacked
	tx        bool
	inTx      []unacked // acknowledged in a transaction that has not ended
}

type brokerConsumer struct {
	tag, queue       string
	noAck, exclusive bool
}

// consume begins a consumer, or gives the code of the broker's refusal.
func (b *modelBroker) consume(ch *brokerChannel, f frame.Frame) (code int) {
	a := f.Args()
	a.Short()
	c := brokerConsumer{queue: string(a.ShortStr()), tag: string(a.ShortStr())}
	flags := a.Octet()
	c.noAck, c.exclusive = flags&consumeNoAck != 0, flags&consumeExclusive != 0
	for _, other := range ch.consumers {
		if other.tag == c.tag {
			b.t.Fatalf("%v, and the tag is in use: the connection ends", f)
		}
	}
	if b.gone[c.queue] {
		return frame.NotFound
	}
	for n := range b.channels {
		for _, other := range b.channels[n].consumers {
			if other.queue == c.queue && (c.exclusive || other.exclusive) {
				return frame.AccessRefused
			}
		}
	}
	ch.consumers = append(ch.consumers, c)
	return 0
}

func (b *modelBroker) get(ch *brokerChannel, n uint16, f frame.Frame) []frame.Frame {
	a := f.Args()
	a.Short()
	queue, noAck := string(a.ShortStr()), a.Octet()&getNoAck != 0
	switch {
	case b.gone[queue]:
		return b.fail(ch, n, frame.NotFound)
	case rapid.Bool().Draw(b.t, "empty"):
		return []frame.Frame{text("%d basic.get-empty", n)}
	}
	return message(b.t, "", `%d basic.get-ok delivery-tag=%d exchange="shard.a"`, n, ch.send(queue, noAck))
}

// send gives the tag of a delivery.
func (d *modelDeliveries) send(queue string, noAck bool) uint64 {
	d.tags++
	if !noAck {
		d.unacked = append(d.unacked, unacked{d.tags, queue})
	}
	return d.tags
}

// deliver sends a message to one of a channel's consumers.
func (b *modelBroker) deliver(ch *brokerChannel, n int) []frame.Frame {
	c := rapid.SampledFrom(ch.consumers).Draw(b.t, "consumer")
	return message(b.t, "headers={}", `%d basic.deliver consumer-tag=%q delivery-tag=%d exchange="shard.a"`, n, c.tag, ch.send(c.queue, c.noAck))
}

// consuming are the channels with consumers.
func (b *modelBroker) consuming() (channels []int) {
	for n, ch := range b.channels {
		if ch.state == modelOpen && len(ch.consumers) > 0 {
			channels = append(channels, n)
		}
	}
	return channels
}

// serve delivers something, or ends a consumer as the broker does when its queue is
// deleted: a client that does not hear of it is not told.
func (b *modelBroker) serve(hears bool) []frame.Frame {
	n := rapid.SampledFrom(b.consuming()).Draw(b.t, "consuming channel")
	ch := &b.channels[n]
	if !hears || rapid.IntRange(0, 9).Draw(b.t, "ends") > 0 {
		return b.deliver(ch, n)
	}
	i := rapid.IntRange(0, len(ch.consumers)-1).Draw(b.t, "which")
	tag := ch.consumers[i].tag
	ch.consumers = slices.Delete(slices.Clone(ch.consumers), i, i+1)
	return []frame.Frame{text("%d basic.cancel consumer-tag=%q nowait=1", n, tag)}
}

// settle takes ack, nack and reject; false for a tag that is not known.
func (d *modelDeliveries) settle(f frame.Frame) bool {
	a := f.Args()
	tag := a.LongLong()
	multiple := f.Method() != frame.BasicReject && a.Bit()
	known := multiple && tag == 0
	d.unacked = slices.DeleteFunc(slices.Clone(d.unacked), func(u unacked) bool {
		ends := u.tag == tag || multiple && (u.tag < tag || tag == 0)
		if ends && d.tx {
			d.inTx = append(d.inTx, u)
		}
		known = known || ends
		return ends
	})
	return known
}

// end ends a transaction.
func (d *modelDeliveries) end(commit bool) {
	if !commit {
		d.unacked = append(d.unacked, d.inTx...)
		slices.SortFunc(d.unacked, func(a, b unacked) int { return int(a.tag) - int(b.tag) })
	}
	d.inTx = nil
}

// holding are the modelDeliveries of a queue that are not acknowledged for good, by
// channel.
func (b *modelBroker) holding(queue string) map[uint16][]uint64 {
	tags := map[uint16][]uint64{}
	for n, ch := range b.channels {
		for _, u := range slices.Concat(ch.unacked, ch.inTx) {
			if u.queue == queue {
				tags[uint16(n)] = append(tags[uint16(n)], u.tag)
			}
		}
	}
	return tags
}

// ends tells whether a frame of a client's may end modelDeliveries on its channel.
func ends(f frame.Frame) bool {
	if f.Type() != frame.TypeMethod {
		return false
	}
	switch f.Method() {
	case frame.BasicAck, frame.BasicNack, frame.BasicReject, frame.BasicRecover, frame.BasicRecoverAsync, frame.TxCommit, frame.ChannelClose, frame.ChannelCloseOk:
		return true
	}
	return false
}

// clientDeliveries is what a client knows of its consumers and modelDeliveries.
type clientDeliveries struct {
	live       map[string]bool // consumers
	lives      map[string]int  // how often tags were used
	unsure     map[string]bool // one of the lives of the tag has ended, and which is not known
	idle       []string        // tags to be used again
	unacked    []uint64
	recovering int
	tx         bool // tx.select was sent
	async      bool // basic.recover-async, or an ack of all: what is on its way counts for the broker
}

// tag is what a method of the client's is about.
func (ch *clientChannel) tag(t *rapid.T, m frame.Method, kind string, serial int) (tag string) {
	if m == frame.BasicCancel {
		tags := append(sorted(ch.live), "unknown")
		return rapid.SampledFrom(tags).Draw(t, "tag")
	}
	tag = fmt.Sprint(kind, serial)
	if again := slices.IndexFunc(ch.idle, func(t string) bool { return t[:2] == kind }); again >= 0 && rapid.Bool().Draw(t, "again") {
		tag = ch.idle[again]
		ch.idle = slices.Delete(ch.idle, again, again+1)
	}
	return tag
}

func sorted(m map[string]bool) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// asks notes what a method does to modelDeliveries.
func (d *clientDeliveries) asks(f frame.Frame, tag string) {
	switch f.Method() {
	case frame.BasicConsume:
		d.live[tag] = true
		d.lives[tag]++
	case frame.BasicCancel:
		if d.live[tag] {
			delete(d.live, tag)
			d.idle = append(d.idle, tag)
		}
	case frame.BasicRecover:
		d.recovering++
	case frame.BasicRecoverAsync:
		d.unacked, d.async = nil, true
	case frame.TxSelect:
		d.tx = true
	}
}

// gets notes what comes.
func (d *clientDeliveries) gets(t *rapid.T, f frame.Frame, answer string) {
	a := f.Args()
	switch f.Method() {
	case frame.BasicDeliver:
		tag := a.ShortStr()
		if delivery := a.LongLong(); tag[1] != 'n' {
			d.unacked = append(d.unacked, delivery)
		}
	case frame.BasicGetOk:
		if answer == "basic.get" {
			d.unacked = append(d.unacked, a.LongLong())
		}
	case frame.BasicRecoverOk:
		d.recovering--
		d.unacked = nil
	case frame.BasicCancel:
		tag := string(a.ShortStr())
		if d.lives[tag] == 0 {
			t.Fatalf("%v, and there was no such consumer", f)
		}
		d.unsure[tag] = d.lives[tag] > 1
		delete(d.live, tag) // and is not used again
		d.idle = slices.DeleteFunc(d.idle, func(i string) bool { return i == tag })
	}
}

// acknowledge is an ack, nack or reject of something.
func (ch *clientChannel) acknowledge(t *rapid.T, n int) frame.Frame {
	method := rapid.SampledFrom([]string{"basic.ack", "basic.nack", "basic.reject"}).Draw(t, "acknowledgement")
	i := rapid.IntRange(0, len(ch.unacked)-1).Draw(t, "delivery")
	tag := ch.unacked[i]
	if method == "basic.reject" || rapid.Bool().Draw(t, "single") {
		ch.unacked = slices.Delete(ch.unacked, i, i+1)
		return text("%d %s delivery-tag=%d", n, method, tag)
	}
	ch.unacked = ch.unacked[i+1:]
	if len(ch.unacked) == 0 && rapid.Bool().Draw(t, "all") {
		tag, ch.async = 0, true
	}
	return text("%d %s delivery-tag=%d multiple=1", n, method, tag)
}
