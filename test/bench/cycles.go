package main

import (
	"sync"
	"sync/atomic"
	"time"
)

// cycleWorkers is how many connections are being opened and closed at once.
const cycleWorkers = 8

// cycle connects, opens a channel, publishes one message and closes.
func cycle(p path, message []byte) error {
	c, err := dialSmall(p.addr, 4<<10)
	if err != nil {
		return err
	}
	if _, err := c.Write(message); err != nil {
		c.Close()
		return err
	}
	return c.end()
}

// cycles runs them until more says no, and tells how many there were.
func cycles(p path, size int, more func(done int64) bool) (int64, error) {
	message := appendMessage(nil, p.exchange, key(0), size)
	var done atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, cycleWorkers)
	for i := range errs {
		all.Go(func() {
			for more(done.Load()) && errs[i] == nil {
				errs[i] = cycle(p, message)
				done.Add(1)
			}
		})
	}
	all.Wait()
	return done.Load(), firstOf(errs)
}

func measureCycles(b *bench, s scenario, p path) (sample, error) {
	before, err := p.proc.cpu()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	until := began.Add(b.duration)
	n, err := cycles(p, s.size, func(int64) bool { return time.Now().Before(until) })
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := p.proc.cpu()
	got := sample{cyclesPerSecond: float64(n) / took.Seconds()}
	if p.proc != nil {
		got[cpuPerCycle] = micros(after-before) / float64(n)
	}
	return got, err
}

// measureLeak tells how the memory and the descriptors of a fresh proxy grow over
// very many cycles. A tenth of them come before, to warm it up.
func measureLeak(b *bench, s scenario, p path) (sample, error) {
	p, end, err := b.fresh(p)
	if err != nil {
		return nil, err
	}
	defer end()
	var rss [2]int64
	var files [2]int
	for i, count := range []int64{b.leakCycles / 10, b.leakCycles} {
		if _, err := cycles(p, s.size, func(done int64) bool { return done < count }); err != nil {
			return nil, err
		}
		time.Sleep(b.settle)
		if rss[i], err = p.proc.rss(); err != nil {
			return nil, err
		}
		if files[i], err = p.proc.files(); err != nil {
			return nil, err
		}
	}
	return sample{rssBefore: float64(rss[0]), rssAfter: float64(rss[1]), filesLeft: float64(files[1] - files[0])}, nil
}
