package test

import (
	"sync"
	"testing"
	"time"
)

// hostileWorkers is how many conversations go on at once.
const hostileWorkers = 12

// hostileEach runs a conversation for each number under count, and for each of the
// two ways in which a socket can end.
func hostileEach(t *testing.T, count int, run func(t *testing.T, at int, reset bool)) {
	t.Helper()
	next := make(chan int)
	var workers sync.WaitGroup
	for range hostileWorkers {
		workers.Go(func() {
			for i := range next {
				run(t, i/2, i%2 == 1)
			}
		})
	}
	for i := range 2 * count {
		next <- i
	}
	close(next)
	workers.Wait()
}

// TestHostileClientVanishes: a client that is gone behind any octet of what it says,
// closed or reset, leaves nothing in the proxy, and nobody else notices.
func TestHostileClientVanishes(t *testing.T) {
	t.Parallel()
	l := hostileStart(t, nil)
	neighbour := l.neighbour(t)
	talk := hostileTalk(t, "guest")
	whole := rawDial(t, l.proxy.Addr())
	if h := hostileRun(whole, talk, hostileLength(talk)+1); !h.last {
		t.Fatalf("the whole conversation ends with %+v", h)
	}
	whole.Close()
	before := l.uses(t)
	before.connections, before.channels, before.places = 1, 1, 0 // the neighbour's

	began := time.Now()
	hostileEach(t, hostileLength(talk), func(t *testing.T, at int, reset bool) {
		c := rawTry(t, l.proxy.Addr())
		if c == nil {
			return
		}
		h := hostileRun(c, talk, at+1)
		if h.err != nil || h.close != nil {
			t.Errorf("before octet %d the client got %v, %v", at, h.close, h.err)
		}
		if reset {
			c.reset()
		}
		c.Close()
	})
	t.Logf("%d conversations in %s", 2*hostileLength(talk), time.Since(began))
	l.wantNoMore(t, before)
	neighbour.done(5 * time.Second)
}
