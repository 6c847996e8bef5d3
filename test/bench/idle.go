package main

import (
	"sync"
	"syscall"
	"time"
)

// idleConnections is how many connections the descriptors allow, up to want: a
// proxy needs two for each.
func idleConnections(want int) int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return want
	}
	return min(want, (int(min(limit.Max, 1<<30))-200)/2)
}

// measureIdle opens connections with one channel each on a fresh proxy, and tells
// how much resident memory each has cost when nothing happens any more.
func measureIdle(b *bench, s scenario, p path) (sample, error) {
	p, end, err := b.fresh(p)
	if err != nil {
		return nil, err
	}
	defer end()
	if _, err := cycles(p, 16, func(done int64) bool { return done < 50 }); err != nil {
		return nil, err
	}
	time.Sleep(b.settle)
	before, err := p.proc.rss()
	if err != nil {
		return nil, err
	}
	conns, err := openMany(p.addr, s.connections)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	time.Sleep(b.settle)
	after, err := p.proc.rss()
	return sample{rssPerConnection: float64(after-before) / float64(len(conns)), connectionsOpen: float64(len(conns))}, err
}

// openMany opens so many connections, some at once.
func openMany(addr string, count int) ([]*client, error) {
	var mu sync.Mutex
	var conns []*client
	var all sync.WaitGroup
	errs := make([]error, cycleWorkers)
	for i := range errs {
		all.Go(func() {
			for range (count + i) / cycleWorkers {
				c, err := dialSmall(addr, 1<<10)
				if err != nil {
					errs[i] = err
					return
				}
				c.frames.Release()
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return conns, firstOf(errs)
}
