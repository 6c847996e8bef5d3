package intercept

import (
	"encoding/binary"
	"fmt"
	"testing"

	"amqproxy/frame"
	"amqproxy/shard"
)

// groupBatch is a consumer of a group whose readers have perBatch messages for it, on one link
// or on several, and its acks for them.
type groupBatch struct {
	conn  *Conn
	out   Out
	sides []string
	fresh [][]byte // what each link brings
	read  [][]byte // the same as it was read: the Conn changes it
	tags  [][]int  // where the delivery tags are in it
	up    []uint64 // the last one of each link
	tag   uint64   // the client's
	acks  []byte
}

// newGroupBatch begins the consumer; prefetch is what it may have unsettled.
func newGroupBatch(tb testing.TB, legs, prefetch int) *groupBatch {
	var snap snapshot
	snap.init()
	snap.add("stream", "shard.g", options{"consumers": "balanced", "shards": "2", "local": "1", "third": "1"})
	snap.brokers["n2"], snap.brokers["n3"] = shard.Broker{Address: "n2:1"}, shard.Broker{Address: "n3:1"}
	b := &groupBatch{conn: New(Config{VHost: "/", FrameMax: 131072, Seed: 1, KnowsLogin: true, MaxLinks: 4}, snap.make(), &shard.Counters{})}
	b.take(tb, "client", text("1 channel.open"))
	b.take(tb, "home", text("1 channel.open-ok"))
	b.take(tb, "client", text("1 basic.qos prefetch-count=%d", prefetch))
	b.take(tb, "home", text("1 basic.qos-ok"))
	b.take(tb, "client", text(`1 basic.consume queue="shard.g" consumer-tag="c"`))
	b.conn.Answered(Answer{Channel: 1, Serial: b.out.Errands[0].Serial, Member: 1}, &b.out)
	table, _ := b.conn.find([]byte("shard.g"))
	b.conn.Follow(shard.Parts{Of: map[uint64]shard.Part{1: {Shards: table.All()[:legs]}}}, &b.out)
	for i := range legs {
		b.conn.LinkUp(i, 0, &b.out)
		side := fmt.Sprint("link", i)
		b.take(tb, side, text("1 channel.open-ok"))
		b.take(tb, side, text(`1 basic.consume-ok consumer-tag="c"`))
		b.sides, b.up = append(b.sides, side), append(b.up, 0)
		b.brings(perBatch / legs)
	}
	return b
}

func (b *groupBatch) take(tb testing.TB, side string, f frame.Frame) {
	b.out.Reset()
	if err := feedWith(b.conn, side, f, &b.out); err != nil {
		tb.Fatal(err)
	}
	b.conn.EndBatch()
}

// brings gives the next link n messages.
func (b *groupBatch) brings(n int) {
	var all []byte
	var tags []int
	for i := range n {
		deliver := text(`1 basic.deliver consumer-tag="c" exchange="shard.g" routing-key="key-%d"`, i)
		tags = append(tags, len(all)+frame.TagAt(deliver))
		all = append(append(append(all, deliver...), text("1 header body-size=100 headers={} delivery-mode=2")...), text("1 %s", hundred)...)
	}
	b.fresh, b.read, b.tags = append(b.fresh, all), append(b.read, make([]byte, len(all))), append(b.tags, tags)
}

// deliver has every link read what it has, as a session does.
func (b *groupBatch) deliver() {
	for i, read := range b.read {
		copy(read, b.fresh[i])
		for _, at := range b.tags[i] {
			b.up[i]++
			b.tag++
			binary.BigEndian.PutUint64(read[at:], b.up[i])
		}
		b.out.Reset()
		if feedWith(b.conn, b.sides[i], read, &b.out) != nil {
			panic("refused")
		}
		b.conn.EndBatch()
	}
}

// settle acks all that came, one by one or at once.
func (b *groupBatch) settle(multiple bool) {
	b.acks = b.acks[:0]
	for tag := b.tag - b.came() + 1; tag <= b.tag; tag++ {
		if !multiple || tag == b.tag {
			b.acks = frame.Build(b.acks, 1, frame.BasicAck).LongLong(tag).Bit(multiple).End()
		}
	}
	b.out.Reset()
	if feedWith(b.conn, "client", b.acks, &b.out) != nil {
		panic("refused")
	}
	b.conn.EndBatch()
}

func (b *groupBatch) came() (n uint64) {
	for _, tags := range b.tags {
		n += uint64(len(tags))
	}
	return n
}

var groupPaths = []struct {
	name           string
	legs, prefetch int
	multiple       bool
}{
	{"one leg", 1, 0, false},
	{"one leg, acks of many", 1, 0, true},
	{"three legs", 3, 0, false},
	{"three legs, acks of many", 3, 0, true},
	{"one leg, prefetch", 1, 100, false},
	{"three legs, prefetch", 3, 100, true},
}

// TestNoAllocationPerGroupDelivery: a message of a reader's and its ack cost no memory, nor
// does a prefetch, as long as the client takes what comes.
func TestNoAllocationPerGroupDelivery(t *testing.T) {
	for _, p := range groupPaths {
		t.Run(p.name, func(t *testing.T) {
			b := newGroupBatch(t, p.legs, p.prefetch)
			round := func() {
				b.deliver()
				b.settle(p.multiple)
			}
			round()
			if n := testing.AllocsPerRun(200, round); n != 0 {
				t.Errorf("%v allocations for %d messages", n, b.came())
			}
			ch := b.conn.channel(1)
			if ch.state != chOpen || ch.feed.count() != 0 || b.conn.tally.total.Delivered.Load() != b.tag {
				t.Errorf("%d messages, of which %d were delivered and %d not settled", b.tag, b.conn.tally.total.Delivered.Load(), ch.feed.count())
			}
		})
	}
}

// TestWaitingIsACopy: what the client may not have yet is copied, once, for it outlives what
// was read. That is all that it costs.
func TestWaitingIsACopy(t *testing.T) {
	b := newGroupBatch(t, 3, 10)
	round := func() {
		b.deliver()
		b.out.Reset()
		for tag := b.tag - b.came() + 1; tag <= b.tag; tag++ {
			b.acks = frame.Build(b.acks[:0], 1, frame.BasicAck).LongLong(tag).Bit(false).End()
			if feedWith(b.conn, "client", b.acks, &b.out) != nil {
				panic("refused")
			}
		}
	}
	round()
	if ch := b.conn.channel(1); ch.state != chOpen || ch.feed.count() != 0 {
		t.Fatalf("%d messages are not settled", ch.feed.count())
	}
	if n, waited := testing.AllocsPerRun(100, round), float64(b.came()-10); n > 1.5*waited {
		t.Errorf("%v allocations for %v messages that wait", n, waited)
	}
}

// TestGroupDeliveriesArePassed: a run of messages goes to the client from where it was read,
// as one piece.
func TestGroupDeliveriesArePassed(t *testing.T) {
	b := newGroupBatch(t, 1, 0)
	b.deliver()
	if spans := b.out.Client.Spans(); len(spans) != 1 || &spans[0][0] != &b.read[0][0] || len(spans[0]) != len(b.read[0]) {
		t.Errorf("%d pieces for %d messages", len(spans), b.came())
	}
	b.settle(true)
	if got := texts("", b.out.Link(0).AppendTo(nil)); got != fmt.Sprintf("1 basic.ack delivery-tag=%d multiple=1\n", b.tag) {
		t.Errorf("an ack of all became\n%s", got)
	}
}

// BenchmarkGroup is what messages of readers cost, and their acks.
func BenchmarkGroup(b *testing.B) {
	for _, p := range groupPaths {
		b.Run(p.name, func(b *testing.B) {
			batch := newGroupBatch(b, p.legs, p.prefetch)
			b.ReportAllocs()
			for b.Loop() {
				batch.deliver()
				batch.settle(p.multiple)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*int(batch.came())), "ns/message")
		})
	}
}
