package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"amqproxy/frame"
)

// pace is the fixed moderate rate at which latency is measured, per second.
const pace = 5000

// listen opens a client that consumes what it publishes.
func listen(p path, s scenario) (*client, error) {
	c, err := dial(p.addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	for i, q := range p.queues {
		// The argument means something to the sink only.
		if _, err := c.call(fmt.Sprintf(`1 basic.consume queue=%q consumer-tag="c%d" no-ack arguments={x-echo=true}`, q, i), frame.BasicConsumeOk); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// bodyAt is the distance from the end of a message to its body.
func bodyAt(size int) int { return size + 1 }

// measureOneByOne sends a message when the one before has come.
func measureOneByOne(b *bench, s scenario, p path) (sample, error) {
	c, err := listen(p, s)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(b.duration + patience))
	var times []time.Duration
	for i, until := 0, time.Now().Add(b.duration); time.Now().Before(until); i++ {
		m := appendMessage(nil, p.exchange, key(i%p.keys), s.size)
		began := time.Now()
		if _, err := c.Write(m); err != nil {
			return nil, err
		}
		if _, err := c.nextBody(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
	}
	return percentiles(times), nil
}

func (c *client) nextBody() (frame.Frame, error) {
	for {
		f, err := c.next()
		switch {
		case err != nil:
			return nil, err
		case f.Type() == frame.TypeBody:
			return f, nil
		case f.Type() == frame.TypeMethod && f.Method() != frame.BasicDeliver:
			return nil, fmt.Errorf("unexpected %s", f)
		}
	}
}

// measurePaced sends at a fixed rate, and each message carries its time.
func measurePaced(b *bench, s scenario, p path) (sample, error) {
	c, err := listen(p, s)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	count := int(b.duration.Seconds() * pace)
	times := make([]time.Duration, 0, count)
	began := time.Now()
	c.SetDeadline(began.Add(b.duration + patience))
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() { sendErr = c.sendPaced(p, s.size, count, began) })
	for len(times) < count && err == nil {
		var f frame.Frame
		if f, err = c.nextBody(); err == nil {
			times = append(times, time.Since(began)-time.Duration(binary.BigEndian.Uint64(f.Payload())))
		}
	}
	if err != nil {
		c.Close()
	}
	sending.Wait()
	if sendErr != nil {
		return nil, sendErr
	}
	return percentiles(times), err
}

func (c *client) sendPaced(p path, size, count int, began time.Time) error {
	var m []byte
	for i := range count {
		m = appendMessage(m[:0], p.exchange, key(i%p.keys), size)
		// The runtime's own sleep is too coarse: it may wait for a millisecond.
		if wait := time.Until(began.Add(time.Duration(i) * time.Second / pace)); wait > 0 {
			ts := syscall.NsecToTimespec(int64(wait))
			syscall.Nanosleep(&ts, nil)
		}
		binary.BigEndian.PutUint64(m[len(m)-bodyAt(size):], uint64(time.Since(began)))
		if _, err := c.Write(m); err != nil {
			return err
		}
	}
	return nil
}

func percentiles(times []time.Duration) sample {
	if len(times) == 0 {
		return nil
	}
	slices.Sort(times)
	at := func(part float64) float64 {
		return float64(times[min(int(part*float64(len(times))), len(times)-1)].Nanoseconds()) / 1000
	}
	return sample{latency50: at(0.5), latency99: at(0.99), latency999: at(0.999)}
}
