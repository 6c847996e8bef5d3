package intercept

import (
	"fmt"
	"strings"
	"testing"

	"amqproxy/frame"
	"amqproxy/shard"
)

// batch is what a read from one side brings: frames in one buffer.
type batch struct {
	conn   *Conn
	out    Out
	buffer []byte
	frames []frame.Frame
	side   string
}

const perBatch = 100

// newBatch opens a channel and repeats frames, %d in them being the number of the
// repetition, perBatch times.
func newBatch(tb testing.TB, side string, policy bool, lines ...string) *batch {
	var snap snapshot
	snap.init()
	if policy {
		snap.add("stream", "shard.a", options{"shards": "6", "local": "2"})
	}
	b := &batch{side: side, conn: New(Config{VHost: "/", FrameMax: 131072, Seed: 1}, snap.make(), &shard.Counters{})}
	if b.conn.FromClient(text("1 channel.open"), &b.out) != nil || b.conn.FromHome(text("1 channel.open-ok"), &b.out) != nil {
		tb.Fatal("no channel")
	}
	for i := range perBatch {
		for _, l := range lines {
			b.buffer = append(b.buffer, text("1 %s", strings.ReplaceAll(l, "%d", fmt.Sprint(i+1)))...)
		}
	}
	b.frames = cut(b.buffer)
	return b
}

// run takes the batch once, as a session does for each read.
func (b *batch) run() {
	b.out.Reset()
	if feedWith(b.conn, b.side, b.buffer, &b.out) != nil {
		panic("refused")
	}
	b.conn.EndBatch()
}

var hundred = fmt.Sprintf("body %q", strings.Repeat("x", 100))

var paths = []struct {
	name    string
	side    string
	policy  bool
	changed bool
	lines   []string
}{
	{"publish to a stream", "client", true, true, []string{`basic.publish exchange="shard.a" routing-key="key-%d"`, `header body-size=100 headers={a="x"} delivery-mode=2`, hundred}},
	{"publish by the default exchange", "client", true, true, []string{`basic.publish routing-key="shard.a"`, `header body-size=100 delivery-mode=2`, hundred}},
	{"publish elsewhere beside streams", "client", true, false, []string{`basic.publish exchange="logs" routing-key="key-%d"`, `header body-size=100 delivery-mode=2`, hundred}},
	{"publish without any stream", "client", false, false, []string{`basic.publish exchange="logs" routing-key="key-%d"`, `header body-size=100 delivery-mode=2`, hundred}},
	{"deliver from a stream", "home", true, false, []string{`basic.deliver consumer-tag="c" delivery-tag=%d exchange="shard.a" routing-key="key-%d"`, `header body-size=100 headers={} delivery-mode=2`, hundred}},
	{"confirms", "home", true, false, []string{`basic.ack delivery-tag=%d`}},
	{"acks of deliveries", "client", true, false, []string{`basic.ack delivery-tag=%d`}},
}

// TestNoAllocationPerMessage: in steady state a message costs no memory, whatever
// its way.
func TestNoAllocationPerMessage(t *testing.T) {
	for _, p := range paths {
		b := newBatch(t, p.side, p.policy, p.lines...)
		b.run()
		if b.out.Home.Len()+b.out.Client.Len() < len(b.buffer) {
			t.Errorf("%s: %d octets became %d", p.name, len(b.buffer), b.out.Home.Len()+b.out.Client.Len())
		}
		if n := testing.AllocsPerRun(200, b.run); n != 0 {
			t.Errorf("%s: %v allocations for %d messages", p.name, n, perBatch)
		}
	}
}

// TestNoAllocationOverLinks: nor do messages that go to several brokers.
func TestNoAllocationOverLinks(t *testing.T) {
	b := newBatch(t, "client", true, paths[0].lines...)
	var snap snapshot
	snap.init()
	snap.add("stream", "shard.a", options{"shards": "6", "local": "2"})
	snap.brokers["n2"] = shard.Broker{Address: "n2:5672"}
	b.conn.cfg.KnowsLogin, b.conn.cfg.MaxLinks = true, 1
	b.conn.Use(snap.make())
	b.run() // up to the first message that needs a link
	b.conn.LinkUp(0, 0, &b.out)
	b.run()
	if b.out.Home.Len() == 0 || b.out.Link(0).Len() == 0 {
		t.Fatalf("%d octets went home, %d over the link", b.out.Home.Len(), b.out.Link(0).Len())
	}
	if n := testing.AllocsPerRun(200, b.run); n != 0 {
		t.Errorf("%v allocations for %d messages", n, perBatch)
	}
}

// TestNoAllocationPerConfirm: nor does the ledger of publishes to streams, whether the
// broker confirms singly or many at once.
func TestNoAllocationPerConfirm(t *testing.T) {
	for _, multiple := range []bool{false, true} {
		b := newBatch(t, "client", true, paths[0].lines...)
		if feedWith(b.conn, "client", text("1 confirm.select nowait"), &b.out) != nil {
			t.Fatal("no confirms")
		}
		acks, sent := make([]byte, 0, perBatch*32), uint64(0)
		round := func() {
			b.run()
			acks = acks[:0]
			for range perBatch {
				if sent++; !multiple || sent%perBatch == 0 {
					acks = frame.Build(acks, 1, frame.BasicAck).LongLong(sent).Bit(multiple).End()
				}
			}
			if feedWith(b.conn, "home", acks, &b.out) != nil {
				t.Fatal("refused")
			}
		}
		round()
		if n := testing.AllocsPerRun(200, round); n != 0 {
			t.Errorf("multiple %v: %v allocations for %d messages and their confirms", multiple, n, perBatch)
		}
		if b.conn.unsettled() || b.conn.tally.total.Confirmed.Load() < sent-perBatch {
			t.Errorf("multiple %v: %d publishes, %d confirmed", multiple, sent, b.conn.tally.total.Confirmed.Load())
		}
	}
}

// TestFewPieces: a batch of small messages is one piece for the vectored write, or
// two, and not one for each frame. Where nothing is changed it is the input itself.
func TestFewPieces(t *testing.T) {
	for _, p := range paths {
		b := newBatch(t, p.side, p.policy, p.lines...)
		b.run()
		spans := append(b.out.Home.Spans(), b.out.Client.Spans()...)
		if len(spans) > 2 {
			t.Errorf("%s: %d pieces for %d messages", p.name, len(spans), perBatch)
		}
		if same := len(spans[0]) == len(b.buffer) && &spans[0][0] == &b.buffer[0]; same == p.changed {
			t.Errorf("%s: what goes out is what came in: %v", p.name, same)
		}
	}
}

// TestLargeBodiesAreNotCopied: what is large and goes through as it is stays where
// it was read.
func TestLargeBodiesAreNotCopied(t *testing.T) {
	large := fmt.Sprintf("body %q", strings.Repeat("x", 4096))
	b := newBatch(t, "client", true, paths[0].lines[0], "header body-size=4096", large)
	b.run()
	views := 0
	for _, s := range b.out.Home.Spans() {
		for _, f := range b.frames {
			if &s[0] == &f[0] {
				views += len(s)
			}
		}
	}
	if want := 4096 * perBatch; views < want {
		t.Errorf("%d octets were forwarded without a copy, want %d", views, want)
	}
}

func BenchmarkBatch(b *testing.B) {
	for _, p := range paths {
		b.Run(strings.ReplaceAll(p.name, " ", "-"), func(b *testing.B) {
			batch := newBatch(b, p.side, p.policy, p.lines...)
			b.ReportAllocs()
			b.SetBytes(int64(len(batch.buffer)))
			for b.Loop() {
				batch.run()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*perBatch), "ns/message")
		})
	}
}

// BenchmarkLedger is what a confirmed publish to a stream costs beyond one that passes:
// its entry, and its part of an ack for a hundred.
func BenchmarkLedger(b *testing.B) {
	l := newLedger(confirms{on: true}, &copies{}, nil)
	b.ReportAllocs()
	for i := range b.N {
		l.publish(0, uint64(i), 1, false)
		if i%100 == 99 {
			l.settle(0, l.books[0].sent, true, true)
			l.tell()
		}
	}
}

// BenchmarkLedgerKept is the same with a copy of each message.
func BenchmarkLedgerKept(b *testing.B) {
	var c copies
	l, message := newLedger(confirms{on: true}, &c, nil), make([]byte, 200)
	b.ReportAllocs()
	for i := range b.N {
		l.publish(0, uint64(i), 1, false)
		k, _ := c.begin(message, len(message))
		l.keep(0, k)
		if i%100 == 99 {
			l.settle(0, l.books[0].sent, true, true)
			l.tell()
		}
	}
}
