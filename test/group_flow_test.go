package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// flow is a stream of a group with a ledger, and producers and readers that come and go.
type flow struct {
	*groups
	*ledger
	stream    string
	keys      int
	readers   int // so far
	made      int // producers so far
	producers []*producer
}

// flow declares a stream that this many keys go over, to each shard the same part of them.
func (g *groups) flow(mode, name string, keys int) *flow {
	g.t.Helper()
	f := &flow{groups: g, stream: g.make(mode, name), keys: keys}
	f.ledger = newLedger(evenly(f.stream, keys, g.all(f.stream)))
	return f
}

// shards are the names of the shards on some nodes.
func (f *flow) shards(nodes ...int) (names []string) {
	for _, s := range f.plain(f.stream, f.perNode, nodes...) {
		names = append(names, s.Queue)
	}
	return names
}

// produce publishes the keys of the shards on some nodes, or all, round and round through
// proxy i, one round in every pace, until the flow ends. It sends again what is nacked, and a
// round only when the one before is confirmed, so that the messages of a key are stored in
// their order. With many messages that nobody has read it waits.
func (f *flow) produce(i int, pace time.Duration, nodes ...int) {
	f.t.Helper()
	conn, _ := f.dial(i)
	p := &producer{flow: f, ch: streamOpen(f.t, conn), name: fmt.Sprint("p", f.made), keys: f.keysOn(nodes...)}
	f.made++
	f.producers = append(f.producers, p)
	streamConfirm(f.t, p.ch)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.joined.Go(func() {
		if err := p.run(ctx, max(pace, time.Millisecond)); err != nil {
			text := fmt.Sprintf("%s of %s: %v", p.name, f.stream, err)
			p.strange.Store(&text)
		}
	})
	f.t.Cleanup(f.end)
}

// keysOn are the keys of the shards on some nodes, or all, in order.
func (f *flow) keysOn(nodes ...int) (keys []string) {
	on := f.shards(nodes...)
	for k, queue := range f.home {
		if len(nodes) == 0 || slices.Contains(on, queue) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// producer is one that publishes to a flow.
type producer struct {
	*flow
	ch      *amqp.Channel
	name    string
	keys    []string
	rounds  atomic.Int64 // that are confirmed
	stop    context.CancelFunc
	joined  sync.WaitGroup
	strange atomic.Pointer[string] // why it has given up
}

func (p *producer) run(ctx context.Context, pace time.Duration) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		if p.behind() < 5*p.flow.keys {
			if err := p.round(int(p.rounds.Load())); err != nil {
				return err
			}
			p.rounds.Add(1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// round sends every key once, and what is nacked again.
func (p *producer) round(seq int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	keys := p.keys
	for again := false; len(keys) > 0; again = true {
		confirms := make([]*amqp.DeferredConfirmation, len(keys))
		for i, k := range keys {
			at := line{p.name, k}
			p.sends(at, seq, again)
			var err error
			confirms[i], err = p.ch.PublishWithDeferredConfirm(p.stream, k, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: noteBody(at, seq)})
			if err != nil {
				return err
			}
		}
		var nacked []string
		for i, c := range confirms {
			switch acked, err := c.WaitContext(ctx); {
			case err != nil:
				return err
			case acked:
				p.stored(line{p.name, keys[i]}, seq)
			case p.ch.IsClosed():
				return errors.New("the channel is closed")
			default:
				nacked = append(nacked, keys[i])
			}
		}
		keys = nacked
	}
	return nil
}

// another waits for so many more rounds of the first producer.
func (f *flow) another(rounds int) {
	f.t.Helper()
	f.reached(int(f.producers[0].rounds.Load()) + rounds)
}

// reached waits until its first producer is through with so many rounds.
func (f *flow) reached(rounds int) {
	f.t.Helper()
	p := f.producers[0]
	daemon.Eventually(f.t, 3*time.Minute, func() error {
		if s := p.strange.Load(); s != nil {
			f.t.Fatal(*s)
		}
		if n := int(p.rounds.Load()); n < rounds {
			return fmt.Errorf("%s: %d rounds of %d are through, %d messages are not read", f.stream, n, rounds, f.behind())
		}
		return nil
	})
}

// unordered expects no order any more, of all keys or of those with their shards on some nodes.
func (f *flow) unordered(nodes ...int) {
	away := f.shards(nodes...)
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, queue := range f.home {
		f.moving[k] = f.moving[k] || len(nodes) == 0 || slices.Contains(away, queue)
	}
}

// end ends the publishing, with whole rounds.
func (f *flow) end() {
	for _, p := range f.producers {
		p.stop()
	}
	for _, p := range f.producers {
		p.joined.Wait()
		if s := p.strange.Swap(nil); s != nil {
			f.t.Error(*s)
		}
	}
	f.producers = nil
}

// reader is a consumer of a flow. It acks what it has when that is as much as its batch, or
// when nothing comes for a moment, all at once.
type reader struct {
	flow   *flow
	tag    string
	batch  int
	noAck  bool
	conn   *amqp.Connection
	ch     *amqp.Channel
	socket *net.TCPConn
	done   chan struct{}      // closed when nothing comes any more
	cancel <-chan string      // a basic.cancel of the broker's
	closed <-chan *amqp.Error // the end of the channel
}

// join adds a reader at proxy i. Every other one acks each message by itself.
func (f *flow) join(i, prefetch int) *reader {
	f.t.Helper()
	return f.joinAs(i, prefetch, false)
}

// joinAs is join for a reader that may be one without acks.
func (f *flow) joinAs(i, prefetch int, noAck bool) *reader {
	f.t.Helper()
	r := &reader{noAck: noAck, flow: f, tag: fmt.Sprintf("%s-c%d", f.stream, f.readers), batch: 1, done: make(chan struct{})}
	if f.readers%2 > 0 {
		r.batch = max(prefetch/2, 1)
	}
	f.readers++
	r.conn, r.socket = f.dial(i)
	r.ch = streamOpen(f.t, r.conn)
	r.cancel = r.ch.NotifyCancel(make(chan string, 1))
	r.closed = r.ch.NotifyClose(make(chan *amqp.Error, 1))
	sessionMust(f.t, r.ch.Qos(prefetch, 0, false))
	deliveries, err := r.ch.Consume(f.stream, r.tag, noAck, false, false, false, nil)
	sessionMust(f.t, err)
	go r.run(deliveries) // ends with its connection
	return r
}

func (r *reader) run(deliveries <-chan amqp.Delivery) {
	defer close(r.done)
	var held []amqp.Delivery
	settle := func() {
		for _, d := range held {
			r.flow.settles(r.tag, d.Body)
		}
		if len(held) > 0 && !r.noAck {
			held[len(held)-1].Ack(true) // the error of a reader that was cut off is none here
		}
		held = held[:0]
	}
	idle := time.NewTicker(5 * time.Millisecond)
	defer idle.Stop()
	for {
		select {
		case d, open := <-deliveries:
			if !open {
				settle()
				return
			}
			if r.flow.deliver(r.tag, d.Body, d.Redelivered) {
				held = append(held, d)
			}
			if len(held) >= r.batch {
				settle()
			}
		case <-idle.C:
			settle()
		}
	}
}

// leave ends a reader in order: it cancels, and acks what it has.
func (r *reader) leave() {
	r.flow.t.Helper()
	sessionMust(r.flow.t, r.ch.Cancel(r.tag, false))
	<-r.done
	sessionMust(r.flow.t, r.conn.Close())
}

// hangUp ends it with a connection.close, whatever it has.
func (r *reader) hangUp() {
	r.flow.t.Helper()
	r.flow.dies(r.tag)
	sessionMust(r.flow.t, r.conn.Close())
}

// die ends it as a SIGKILL does that the kernel answers with a reset.
func (r *reader) die() {
	r.flow.t.Helper()
	r.flow.dies(r.tag)
	sessionMust(r.flow.t, r.socket.SetLinger(0))
	sessionMust(r.flow.t, r.socket.Close())
}

// undisturbed checks that a reader was told of nothing.
func (r *reader) undisturbed(t *testing.T) {
	t.Helper()
	select {
	case tag := <-r.cancel:
		t.Errorf("%s was told that %q is cancelled", r.tag, tag)
	case err := <-r.closed:
		t.Errorf("the channel of %s was closed: %v", r.tag, err)
	default:
	}
}
