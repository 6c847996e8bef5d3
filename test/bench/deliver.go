package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"amqproxy/frame"
)

// flooded is a consumer that the sink floods. It counts octets: all deliveries
// are of one size.
type flooded struct {
	*client
	size   int  // octets of one delivery on the wire
	acks   bool // it acknowledges, all that one read has brought at once
	octets atomic.Int64
}

// consumeFlood begins a flood of deliveries without end.
func consumeFlood(addr, queue, exchange string, size int, acks bool) (*flooded, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	f := &flooded{client: c, acks: acks}
	noAck := "no-ack"
	if acks {
		noAck = ""
	}
	c.SetDeadline(time.Now().Add(patience))
	_, err = c.call(fmt.Sprintf(`1 basic.consume queue=%q consumer-tag="c" %s arguments={x-flood=-1 x-size=%d x-exchange=%q}`, queue, noAck, size, exchange), frame.BasicConsumeOk)
	if err == nil {
		err = f.measure(size)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return f, c.SetDeadline(time.Time{})
}

// measure takes the first delivery, and with it the size of all.
func (f *flooded) measure(body int) error {
	for body >= 0 {
		fr, err := f.next()
		if err != nil {
			return err
		}
		f.size += len(fr)
		if fr.Type() == frame.TypeBody || fr.Type() == frame.TypeHeader && body == 0 {
			if body -= len(fr.Payload()); body <= 0 {
				return nil
			}
		}
	}
	return nil
}

// read counts until the connection is closed.
func (f *flooded) read() {
	buf := make([]byte, 256<<10)
	var ack []byte
	acked := uint64(1) // the first delivery is not counted in octets
	for {
		n, err := f.Read(buf)
		octets := f.octets.Add(int64(n))
		if err != nil {
			return
		}
		if whole := uint64(octets)/uint64(f.size) + 1; f.acks && whole > acked {
			acked = whole
			ack = frame.Build(ack[:0], 1, frame.BasicAck).LongLong(acked).Octet(1).End()
			f.Write(ack) // a failure shows at the next read
		}
	}
}

// floods are consumers that read all the time.
type floods struct {
	all     []*flooded
	reading sync.WaitGroup
}

func startFloods(p path, conns, size int, acks bool) (*floods, error) {
	fs := &floods{}
	for i := range conns {
		f, err := consumeFlood(p.addr, p.queues[i%len(p.queues)], p.exchange, size, acks)
		if err != nil {
			fs.end()
			return nil, err
		}
		fs.all = append(fs.all, f)
		fs.reading.Go(f.read)
	}
	return fs, nil
}

func (fs *floods) end() {
	for _, f := range fs.all {
		f.Close()
	}
	fs.reading.Wait()
}

// messages is how many came so far.
func (fs *floods) messages() float64 {
	sum := 0.0
	for _, f := range fs.all {
		sum += float64(f.octets.Load()) / float64(f.size)
	}
	return sum
}

// over measures for a while.
func (fs *floods) over(p path, d time.Duration) (sample, error) {
	before, err := p.proc.cpu()
	if err != nil {
		return nil, err
	}
	began, had := time.Now(), fs.messages()
	time.Sleep(d)
	for fs.messages() == had && time.Since(began) < patience { // a short measurement beside much other work
		time.Sleep(d)
	}
	took, got := time.Since(began), fs.messages()-had
	after, err := p.proc.cpu()
	return rates(got, fs.all[0].size, took, after-before), err
}

// warmUp is how long a flood runs before it counts.
const warmUp = 200 * time.Millisecond

// measureDeliver floods consumers.
func measureDeliver(b *bench, s scenario, p path) (sample, error) {
	fs, err := startFloods(p, b.connections, s.size, s.acks)
	if err != nil {
		return nil, err
	}
	defer fs.end()
	time.Sleep(min(warmUp, b.duration))
	if p.comes != nil {
		if err := p.comes(b.connections); err != nil {
			return nil, err
		}
	}
	return fs.over(p, b.duration)
}

// measureStalled tells which part of their rate consumers keep beside one that
// has stopped reading. What is measured before and after is the whole.
func measureStalled(b *bench, s scenario, p path) (sample, error) {
	fs, err := startFloods(p, b.connections, s.size, s.acks)
	if err != nil {
		return nil, err
	}
	defer fs.end()
	time.Sleep(min(warmUp, b.duration))
	var rate [3]float64
	for i := range rate {
		var stalled *flooded
		if i == 1 {
			if stalled, err = consumeFlood(p.addr, p.queues[0], p.exchange, s.size, false); err != nil {
				return nil, err
			}
			time.Sleep(min(2*warmUp, b.duration)) // until every buffer on its way is full
		}
		got, err := fs.over(p, b.duration)
		if err != nil {
			return nil, err
		}
		rate[i] = got[perSecond]
		if stalled != nil {
			stalled.Close()
		}
	}
	return sample{keptRate: rate[1] / ((rate[0] + rate[2]) / 2)}, nil
}
