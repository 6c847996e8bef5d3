package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/time/rate"
)

const (
	publishers = 9   // over all entrances
	window     = 200 // unconfirmed messages of a publisher for one group of keys
	prefetch   = 200
	standing   = 3 // consumers of a group that have no shard

	dialTime = 3 * time.Second
)

// traffic is the load of a run: publishers and consumers that come back whenever
// they are cut off.
type traffic struct {
	rec  *record
	home *homes
	rate rate.Limit // messages in a second, of all publishers together
	pace *rate.Limiter

	byNode     []atomic.Int64 // unconfirmed, by the node where the keys are at home
	byEntrance []atomic.Int64 // unconfirmed, by the node that the publisher is connected to

	readers []*groupReader // of a group, by node in turn

	stop, giveUp, stopReading context.CancelFunc
	publishing, reading       sync.WaitGroup
}

// startTraffic starts the consumers, with groups one group of them, and the publishers.
func startTraffic(ctx context.Context, w *world, p path, rec *record, victim int, seed uint64) *traffic {
	t := &traffic{rec: rec, home: p.homes(), rate: rate.Limit(w.rate), pace: rate.NewLimiter(rate.Limit(w.rate), max(w.rate/100, 1)),
		byNode: make([]atomic.Int64, nodes), byEntrance: make([]atomic.Int64, nodes)}
	reading, stopReading := context.WithCancel(ctx)
	t.stopReading = stopReading
	for i := range nodes * perNode {
		if !w.groups {
			t.reading.Go(func() { consume(reading, p.exit(i/perNode), rec) })
		}
	}
	for i := range nodes*perNode + standing {
		if w.groups {
			r := &groupReader{url: p.exit(i % nodes), rec: rec}
			t.readers = append(t.readers, r)
			t.reading.Go(func() { again(reading, func() { r.session(reading) }) })
		}
	}
	waiting, giveUp := context.WithCancel(ctx)
	publishing, stop := context.WithCancel(waiting)
	t.stop, t.giveUp = stop, giveUp
	entrances := p.entrances(victim)
	for i := range publishers {
		pub := newPublisher(t, i, entrances[i%len(entrances)], seed)
		pub.mandatory = p.name() == "amqproxy" && i >= publishers-len(entrances) // one at each entrance
		rec.mandatory[i], rec.entrance[i] = pub.mandatory, pub.at.node
		t.publishing.Go(func() { pub.run(publishing, waiting) })
	}
	return t
}

// burst lifts the limit of the pace, so that the windows fill.
func (t *traffic) burst(on bool) {
	t.pace.SetLimit(t.rate)
	if on {
		t.pace.SetLimit(rate.Inf)
	}
}

// endPublishing ends it, and waits for the confirms that are due.
func (t *traffic) endPublishing(within time.Duration) {
	t.stop()
	late := time.AfterFunc(within, t.giveUp)
	t.publishing.Wait()
	late.Stop()
	t.giveUp()
}

// close ends what still runs.
func (t *traffic) close() {
	t.giveUp()
	t.publishing.Wait()
	t.stopReading()
	t.reading.Wait()
}

// open connects, and cuts the connection when the context is done, whatever it waits
// for.
func open(ctx context.Context, url string) (*amqp.Connection, *amqp.Channel, error) {
	return openOn(ctx, url, func(net.Conn) {})
}

// openOn is open that gives the socket away, too.
func openOn(ctx context.Context, url string, take func(net.Conn)) (*amqp.Connection, *amqp.Channel, error) {
	dial := func(network, addr string) (net.Conn, error) {
		conn, err := amqp.DefaultDial(dialTime)(network, addr)
		if err == nil {
			take(conn)
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: dial, Heartbeat: 10 * time.Second})
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, ch, nil
}

// again calls session until the context is done, not too often while it fails.
func again(ctx context.Context, session func()) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		session()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
