package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"amqproxy/frame"
)

// measurePublish publishes on several connections, with or without confirms.
func measurePublish(b *bench, s scenario, p path) (sample, error) {
	pubs, err := publishers(b, s, p, s.confirms)
	if err != nil {
		return nil, err
	}
	defer closeAll(pubs)
	before, err := p.proc.cpu()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := runAll(pubs, began.Add(b.duration)); err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := p.proc.cpu()
	if err == nil && p.went != nil {
		err = p.went(len(pubs))
	}
	sent := 0.0
	for _, pub := range pubs {
		sent += float64(pub.sent)
	}
	return rates(sent, pubs[0].size, took, after-before), err
}

// rabbitWindow is how many messages of a publisher may be without a confirm.
const rabbitWindow = 1000

func publishers(b *bench, s scenario, p path, confirms bool) ([]*publisher, error) {
	buf, size := encodeMessages(p.exchange, p.keys, s.size)
	window := 0
	if s.target == rabbit && confirms {
		window = max(min(rabbitWindow, 4<<20/size), 8)
	}
	var pubs []*publisher
	for range b.connections {
		pub, err := newPublisher(p.addr, buf, size, confirms, window)
		if err != nil {
			closeAll(pubs)
			return nil, err
		}
		pubs = append(pubs, pub)
	}
	return pubs, nil
}

func closeAll(pubs []*publisher) {
	for _, p := range pubs {
		p.Close()
	}
}

func runAll(pubs []*publisher, until time.Time) error {
	var all sync.WaitGroup
	errs := make([]error, len(pubs))
	for i, pub := range pubs {
		all.Go(func() { errs[i] = pub.run(until) })
	}
	all.Wait()
	return firstOf(errs)
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// acking is a consumer that acks, a hundred at a time.
type acking struct {
	*client
	got    atomic.Int64
	closed atomic.Bool // by us
	err    error       // set before run returns
}

func consumeAcking(addr, queue string) (*acking, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	_, err = c.call("1 basic.qos prefetch-count=1000", frame.BasicQosOk)
	if err == nil {
		_, err = c.call(fmt.Sprintf(`1 basic.consume queue=%q`, queue), frame.BasicConsumeOk)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &acking{client: c}, c.SetDeadline(time.Time{})
}

func (a *acking) run() {
	var ack []byte
	for {
		f, err := a.next()
		if err != nil {
			if !a.closed.Load() {
				a.err = err
			}
			return
		}
		if f.Type() != frame.TypeMethod || f.Method() != frame.BasicDeliver {
			continue
		}
		if n := a.got.Add(1); n%100 == 0 {
			ack = frame.Build(ack[:0], 1, frame.BasicAck).LongLong(uint64(n)).Bit(true).End()
			a.Write(ack) // its error is that of the next read
		}
	}
}

// measureThrough publishes with confirms and consumes at once: what counts is
// what the consumers get.
func measureThrough(b *bench, s scenario, p path) (_ sample, err error) {
	var cons []*acking
	var reading sync.WaitGroup
	defer func() {
		for _, c := range cons {
			c.closed.Store(true)
			c.Close()
		}
		reading.Wait()
		for _, c := range cons {
			if err == nil {
				err = c.err
			}
		}
	}()
	for _, q := range p.queues {
		c, err := consumeAcking(p.addr, q)
		if err != nil {
			return nil, err
		}
		cons = append(cons, c)
		reading.Go(c.run)
	}
	pubs, err := publishers(b, s, p, true)
	if err != nil {
		return nil, err
	}
	defer closeAll(pubs)
	received := func() (sum float64) {
		for _, c := range cons {
			sum += float64(c.got.Load())
		}
		return sum
	}
	failed := make(chan error, 1)
	began := time.Now()
	go func() { failed <- runAll(pubs, began.Add(min(warmUp, b.duration)+b.duration)) }() // joined below
	time.Sleep(min(warmUp, b.duration))
	before, _ := p.proc.cpu()
	began, had := time.Now(), received()
	time.Sleep(b.duration)
	took, got := time.Since(began), received()-had
	after, cpuErr := p.proc.cpu()
	if err := <-failed; err != nil {
		return nil, err
	}
	return rates(got, pubs[0].size, took, after-before), cpuErr
}
