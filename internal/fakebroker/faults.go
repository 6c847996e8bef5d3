package fakebroker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Faults are what a Server does wrong to publishers. The zero value is a broker that
// does nothing wrong.
type Faults struct {
	// NackEvery has each so-manieth publish on channels with confirms nacked. Such a
	// message is not stored, or with NackStored it is all the same.
	NackEvery  int
	NackStored bool
	// ReturnEvery has each so-manieth mandatory publish come back as unroutable, and
	// stored nowhere.
	ReturnEvery int
	// ConfirmDelay holds each confirm back for a time of its own, up to this one: they
	// come out of order, singly and several at once. Seed tells which.
	ConfirmDelay time.Duration
	Seed         uint64
	// Down are names of queues whose node is dead, as RabbitMQ 4.3 has it: what is
	// routed to one is nacked, and not returned as by RabbitMQ 3.10. All else that is
	// done to such a queue gets 404, as there.
	Down []string
}

// control is what the Server does wrong, now. Its lock is a leaf: nothing is locked
// under it.
type control struct {
	frozen gate // nothing is answered
	alarm  gate // publishers are blocked

	mu        sync.Mutex
	faults    Faults
	random    *rand.Rand
	published int // on channels with confirms
	mandatory int
	reason    string // of the alarm
}

// SetFaults changes what the Server does wrong from the next publish on. The counts for
// each so-manieth begin anew.
func (s *Server) SetFaults(f Faults) {
	c := &s.control
	c.mu.Lock()
	defer c.mu.Unlock()
	f.Down = slices.Clone(f.Down)
	c.faults, c.random = f, rand.New(rand.NewPCG(f.Seed, 0))
	c.published, c.mandatory = 0, 0
}

// Freeze has the Server answer nothing that comes from now on, with all sockets open,
// until Thaw. What came before may still be answered.
func (s *Server) Freeze() { s.control.frozen.shut() }

// Thaw ends a Freeze: what came meanwhile is answered now.
func (s *Server) Thaw() { s.control.frozen.open() }

// Block has each connection that publishes from now on blocked: it hears of it if it
// has the capability, and is not read until Unblock.
func (s *Server) Block(reason string) {
	s.control.mu.Lock()
	s.control.reason = reason
	s.control.mu.Unlock()
	s.control.alarm.shut()
}

// Unblock ends a Block.
func (s *Server) Unblock() { s.control.alarm.open() }

func (c *control) blockedReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// verdict is what happens to a publish.
type verdict struct{ nack, drop, unroutable bool }

// judge counts a publish and tells what happens to it.
func (c *control) judge(confirms, mandatory bool) (v verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if confirms {
		c.published++
		v.nack = c.faults.NackEvery > 0 && c.published%c.faults.NackEvery == 0
		v.drop = v.nack && !c.faults.NackStored
	}
	if mandatory {
		c.mandatory++
		v.unroutable = !v.nack && c.faults.ReturnEvery > 0 && c.mandatory%c.faults.ReturnEvery == 0
	}
	return v
}

// isDown tells whether a queue's node is dead.
func (c *control) isDown(queue string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.faults.Down, queue)
}

// delay is how long a confirm is held back; 0 for not at all.
func (c *control) delay() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.ConfirmDelay <= 0 {
		return 0
	}
	return time.Duration(1 + c.random.Int64N(int64(c.faults.ConfirmDelay)))
}

// several tells whether a confirm that was held back is for those before it, too.
func (c *control) several() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(2) == 0
}

// gate is open or shut. The zero gate is open.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // closed when it opens; nil while it is open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// shutNow gives what is closed when the gate opens; nil while it is open.
func (g *gate) shutNow() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened
}

// wait returns when the gate is open; false when who waits is gone.
func (g *gate) wait(gone <-chan struct{}) bool {
	for {
		opened := g.shutNow()
		if opened == nil {
			return true
		}
		select {
		case <-opened:
		case <-gone:
			return false
		}
	}
}
