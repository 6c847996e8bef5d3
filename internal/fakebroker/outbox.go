package fakebroker

import (
	"net"
	"sync"
	"time"

	"amqproxy/frame"
)

const (
	// deliverMark is how much may wait to be written before deliveries stop.
	deliverMark = 256 << 10
	// readMark is how much may wait before the client is not read any more: what it
	// asks for is answered without limit below.
	readMark = 512 << 10
	// lastWords is how long the client may take for what is written last.
	lastWords = 3 * time.Second
)

// outbox is what waits to be written to a client. One goroutine, run, writes. Its lock
// is a leaf: nothing is locked under it.
type outbox struct {
	wake    chan struct{} // there is something to write, or nothing more to come
	drained chan struct{} // there is less to write

	mu       sync.Mutex
	buf      []byte
	writing  int  // octets of which the write has not returned
	stalled  bool // deliveries have stopped
	finished bool // nothing more comes
}

func newOutbox() outbox {
	return outbox{wake: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
}

// poke wakes who waits for c, or will.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add has write append frames to what waits.
func (o *outbox) add(write func(dst []byte) []byte) {
	o.mu.Lock()
	o.buf = write(o.buf)
	o.mu.Unlock()
	poke(o.wake)
}

// send adds frames.
func (o *outbox) send(frames []byte) {
	o.add(func(dst []byte) []byte { return append(dst, frames...) })
}

// full tells whether deliveries must stop; run's resume says when they may go on.
func (o *outbox) full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf)+o.writing >= deliverMark {
		o.stalled = true
	}
	return o.stalled
}

// wait returns when so little waits that more may be read; false when the client is
// gone.
func (o *outbox) wait(gone <-chan struct{}) bool {
	for {
		o.mu.Lock()
		waits := len(o.buf) + o.writing
		o.mu.Unlock()
		if waits < readMark {
			return true
		}
		select {
		case <-o.drained:
		case <-gone:
			return false
		}
	}
}

// finish says that nothing more comes: run returns when all is written.
func (o *outbox) finish() {
	o.mu.Lock()
	o.finished = true
	o.mu.Unlock()
	poke(o.wake)
}

// take takes all that waits; the writer's last buffer is used for what comes.
func (o *outbox) take(last []byte) (b []byte, finished bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if cap(last) > deliverMark {
		last = nil // it was one large message
	}
	b, o.buf = o.buf, last[:0]
	o.writing = len(b)
	return b, o.finished
}

// written tells whether deliveries that have stopped may go on.
func (o *outbox) written() (resume bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = 0
	resume = o.stalled && len(o.buf) < deliverMark
	if resume {
		o.stalled = false
	}
	return resume
}

// run writes until finish or an error, and a heartbeat where nothing was written for
// that long.
func (o *outbox) run(nc net.Conn, frozen *gate, gone <-chan struct{}, beats <-chan time.Duration, resume func()) error {
	var beat time.Duration
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	var last []byte
	for {
		b, finished := o.take(last)
		last = b
		if len(b) > 0 {
			if !frozen.wait(gone) {
				return net.ErrClosed
			}
			if _, err := nc.Write(b); err != nil {
				return err
			}
			if o.written() {
				resume()
			}
			poke(o.drained)
			if beat > 0 {
				idle.Reset(beat)
			}
			continue
		}
		if finished {
			return nil
		}
		select {
		case <-o.wake:
		case beat = <-beats:
			idle.Reset(beat)
		case <-idle.C:
			if beat > 0 {
				o.send(frame.Heartbeat)
			}
		}
	}
}
