package proxy

import (
	"context"
	"maps"
	"net"
	"regexp"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"amqproxy/frame"
	"amqproxy/shard"
)

// testNode knows the stream shard.a, and shard.b once it was asked for it; it grants
// every wish and counts what sessions have of it.
type testNode struct {
	mu                   sync.Mutex
	rules                *shard.Rules
	tables               map[shard.Name]*shard.Table
	others               map[shard.Name]shard.Verdict
	snap                 *shard.Snapshot
	brokers              map[string]shard.Broker
	seats, held, changes int
	slow                 time.Duration // how long Learn takes
}

func newTestNode() *testNode {
	everything := shard.Definition{QueueDeclare: shard.DeclareAnswer, QueuePurge: shard.SetAll, QueueDelete: shard.SetAll}
	policy := shard.Policy{Name: "all", Pattern: regexp.MustCompile(`^shard\.`), VHost: "*", Definition: "all"}
	n := &testNode{tables: map[shard.Name]*shard.Table{}, others: map[shard.Name]shard.Verdict{}}
	n.rules = shard.NewRules(shard.Parameters{}, map[string]shard.Definition{"all": everything}, []shard.Policy{policy})
	for _, name := range []string{"shard.a", "shard.b"} {
		settings, _ := n.rules.Match("/", name)
		n.tables[shard.Name{VHost: "/", Stream: name}] = shard.NewTable("/", name, settings, shard.Declared{Type: "topic", Durable: true}, []shard.Shard{
			{Queue: testQueue, Node: "n1", Weight: 1, Local: true}, {Queue: "stream: shard.a - n1 - 1", Node: "n1", Index: 1, Weight: 1, Local: true},
		}, &shard.Counters{})
	}
	n.others[shard.Name{VHost: "/", Stream: "shard.b"}] = shard.Unknown
	n.news()
	return n
}

const testQueue = "stream: shard.a - n1 - 0"

func (n *testNode) news() {
	n.snap = shard.NewSnapshot("n1", n.rules, n.tables, maps.Clone(n.others),
		map[shard.Queue]shard.Standing{{VHost: "/", Name: testQueue}: shard.InUse}, n.brokers)
}

// The streams that it knows have no groups.
func (n *testNode) Join(context.Context, shard.Name, string, string, bool) (uint64, error) {
	return 0, &shard.Refused{Code: frame.NotImplemented}
}
func (n *testNode) Left(uint64)                           {}
func (n *testNode) Parts() (shard.Parts, <-chan struct{}) { return shard.Parts{}, nil }
func (n *testNode) Reads(uint64, shard.Reading, bool)     {}
func (n *testNode) Sit(string, string)                    {}

func (n *testNode) Snapshot() *shard.Snapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.snap
}

func (n *testNode) Learn(_ context.Context, name shard.Name) error {
	time.Sleep(n.slow)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.others, name)
	if n.tables[name] == nil {
		n.others[name] = shard.Absent
	}
	n.news()
	return nil
}

// add changes one of the counts.
func (n *testNode) add(count *int, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*count += by
}

func (n *testNode) Begin(context.Context, shard.Name, bool) (bool, error) {
	n.add(&n.changes, 1)
	return true, nil
}

func (n *testNode) Make(_ context.Context, _ shard.Name, _ shard.Declared, held bool) error {
	if held {
		n.add(&n.changes, -1)
	}
	return nil
}

func (n *testNode) Forget(context.Context, shard.Name) error {
	n.add(&n.changes, -1)
	return nil
}

func (n *testNode) Pick(context.Context, shard.Name) (string, error) {
	n.add(&n.seats, 1)
	return testQueue, nil
}

func (n *testNode) Abandon(shard.Name)    { n.add(&n.changes, -1) }
func (n *testNode) Leave(_, _ string)     { n.add(&n.seats, -1) }
func (n *testNode) Hold(_, _ string)      { n.add(&n.held, 1) }
func (n *testNode) Free(_, _ string)      { n.add(&n.held, -1) }
func (n *testNode) Walk() (done func())   { return func() {} }
func (n *testNode) totals() (s, h, c int) { return n.seats, n.held, n.changes }

func (n *testNode) Count(context.Context, shard.Name, shard.Login) (messages, consumers int, err error) {
	return 5, 1, nil
}

func (n *testNode) Purge(context.Context, shard.Name, shard.Login) (int, error) { return 5, nil }

func (n *testNode) Destroy(context.Context, shard.Name, shard.Login, bool, bool) (int, error) {
	return 5, nil
}

// pair is a session between a client and a broker that a test plays both. It lives
// in a bubble of synctest: time passes when nothing else can happen.
type pair struct {
	t       *testing.T
	node    *testNode
	se      *session
	client  *peer
	broker  *peer // nil until the session has dialled
	reading sync.WaitGroup
	ended   chan struct{}
}

// peer is the far end of one of the session's sockets.
type peer struct {
	net.Conn
	sent, got int
	heard     []byte // the beginning of what came
}

const heardMost = 64 << 10

func newPair(t *testing.T) *pair {
	p := &pair{t: t, node: newTestNode(), ended: make(chan struct{})}
	s := New(Config{Broker: "broker", HandshakeTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, FrameMax: 131072}, p.node, zap.NewNop())
	s.dial = func(context.Context, string, string) (conn net.Conn, err error) {
		p.broker, conn = p.connect()
		return conn, nil
	}
	var conn net.Conn
	p.client, conn = p.connect()
	se, err := newSession(s, conn)
	if err != nil {
		t.Fatal(err)
	}
	p.se = se
	go se.run(func() { close(p.ended) })
	return p
}

// connect makes a connection whose far end reads all that it is sent.
func (p *pair) connect() (far *peer, near net.Conn) {
	conn, near := net.Pipe()
	far = &peer{Conn: conn}
	p.reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			far.got += n
			far.heard = append(far.heard, buf[:min(n, heardMost-len(far.heard))]...)
			if err != nil {
				return
			}
		}
	})
	return far, near
}

// say has a peer send octets in one piece, and waits until all that comes of them has
// happened. What nobody reads any more is lost.
func (p *pair) say(from *peer, b []byte) {
	if from == nil || len(b) == 0 {
		return
	}
	from.SetWriteDeadline(time.Now().Add(time.Millisecond))
	n, _ := from.Write(b)
	from.sent += n
	synctest.Wait()
}

// open does the handshake and opens channels 1 to 3.
func (p *pair) open() { p.handshake(len(handshakeLines)) }

// handshake does the first steps of that.
func (p *pair) handshake(steps int) {
	p.say(p.client, frame.ProtocolHeader)
	for _, line := range handshakeLines[:steps] {
		if b := lines(p.t, line.text); line.client {
			p.say(p.client, b)
		} else {
			p.say(p.broker, b)
		}
	}
}

var handshakeLines = []struct {
	client bool
	text   string
}{
	{false, `0 connection.start version-minor=9 mechanisms="PLAIN"`},
	{true, `0 connection.start-ok mechanism="PLAIN" response="\x00guest\x00guest" locale="en_US"`},
	{false, `0 connection.tune channel-max=2047 frame-max=131072 heartbeat=60`},
	{true, `0 connection.tune-ok channel-max=2047 frame-max=131072 heartbeat=60`},
	{true, `0 connection.open virtual-host="/"`},
	{false, `0 connection.open-ok`},
	{true, `1 channel.open`}, {true, `2 channel.open`}, {true, `3 channel.open`},
	{false, `1 channel.open-ok`}, {false, `2 channel.open-ok`}, {false, `3 channel.open-ok`},
}

// lines are frames that are given as text.
func lines(t testing.TB, texts ...string) (b []byte) {
	t.Helper()
	for _, text := range texts {
		f, err := frame.ParseText(text)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, f...)
	}
	return b
}

// wantEnd wants the session to end by itself, soon, with both sockets still open.
func (p *pair) wantEnd(what string) {
	p.t.Helper()
	began := time.Now()
	for ; time.Since(began) < 3*lingerTime; time.Sleep(time.Second / ticksPerSecond) {
		p.se.tick(time.Now())
		synctest.Wait()
		select {
		case <-p.ended:
			p.end()
			return
		default:
		}
	}
	p.t.Errorf("%s: the session has not ended after %s", what, time.Since(began))
	p.end()
}

// end closes both sockets, and wants the session to end by itself and to leave
// nothing with the node.
func (p *pair) end() {
	p.t.Helper()
	began := time.Now()
	p.client.Close()
	if p.broker != nil {
		p.broker.Close()
	}
	<-p.ended
	p.reading.Wait()
	if after := time.Since(began); after > time.Second {
		p.t.Errorf("the session ended %s after its sockets", after)
	}
	if seats, held, changes := p.node.totals(); seats != 0 || held != 0 || changes != 0 {
		p.t.Errorf("the session leaves %d seats, %d shards held, %d changes", seats, held, changes)
	}
}
