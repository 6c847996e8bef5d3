package membership

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap/zapcore"
)

// network is a network in memory whose links can be cut, slowed and made to lose.
// It needs a bubble: time there passes at once, so that members
// run with the timings of production, and a loaded machine changes nothing.
type network struct {
	mock   memberlist.MockNetwork
	wires  map[string]*wire // by name; the mock can't be added to while it is used
	closed chan struct{}
	log    zapcore.Core // of the members that are started

	mu    sync.Mutex
	cut   map[[2]string]bool // from, to: one way
	up    map[string]bool
	loss  float64
	delay time.Duration // one way
}

// wire is one member's transport on the network.
type wire struct {
	*memberlist.MockTransport
	net  *network
	addr string
	on   chan struct{} // closed when a member begins to use it
}

// bubble runs f where time is not real. The race detector keeps one state for the
// timers of a bubble and crashes when two threads run them, so there is one.
func bubble(t *testing.T, f func(*testing.T)) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, f)
}

var errCut = errors.New("the link is cut")

// linger is longer than any of memberlist's timeouts.
const linger = time.Minute

// newNetwork has a wire for each name.
func newNetwork(t *testing.T, names ...string) *network {
	n := &network{
		wires: map[string]*wire{}, closed: make(chan struct{}), log: zapcore.NewNopCore(),
		cut: map[[2]string]bool{}, up: map[string]bool{},
	}
	for _, name := range names {
		w := n.mock.NewTransport(name)
		ip, port, err := w.FinalAdvertiseAddr("", 0)
		if err != nil {
			t.Fatal(err)
		}
		n.wires[name] = &wire{MockTransport: w, net: n, addr: net.JoinHostPort(ip.String(), fmt.Sprint(port)), on: make(chan struct{})}
	}
	t.Cleanup(func() { // after all members have ended
		time.Sleep(linger) // what is on its way arrives, and what waits times out
		close(n.closed)
	})
	return n
}

// passes tells whether something gets from one address to another now.
func (n *network) passes(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up[from] && n.up[to] && !n.cut[[2]string{from, to}]
}

// change changes what the network does.
func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// link cuts the link from one member to another, or heals it.
func (n *network) link(from, to *node, cut bool) {
	n.change(func() { n.cut[[2]string{from.wire.addr, to.wire.addr}] = cut })
}

// split cuts or heals all links between two groups, both ways.
func (n *network) split(cut bool, a, b []*node) {
	for _, x := range a {
		for _, y := range b {
			n.link(x, y, cut)
			n.link(y, x, cut)
		}
	}
}

// weather is what a packet meets.
func (n *network) weather() (lost bool, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return rand.Float64() < n.loss, n.delay
}

func (w *wire) WriteTo(b []byte, addr string) (time.Time, error) {
	return w.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (w *wire) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	lost, delay := w.net.weather()
	if lost {
		return time.Now(), nil // which nobody notices
	}
	// The mock's delivery waits for the receiver, a real one does not.
	b = bytes.Clone(b)
	time.AfterFunc(delay, func() {
		if w.net.passes(w.addr, a.Addr) {
			w.MockTransport.WriteTo(b, a.Addr) // without the name, which the mock would look for first
		}
	})
	return time.Now(), nil
}

func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return w.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout needs both directions, as TCP does, and hides loss, as TCP does.
func (w *wire) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	_, delay := w.net.weather()
	if 2*delay > timeout {
		time.Sleep(timeout)
		return nil, errCut
	}
	time.Sleep(2 * delay)
	c := &conn{net: w.net, from: w.addr, to: a.Addr}
	if !c.passes() {
		return nil, errCut
	}
	plain, err := w.MockTransport.DialTimeout(a.Addr, timeout)
	if err != nil {
		return nil, err
	}
	c.Conn = plain
	return c, nil
}

// Shutdown takes the member off the network. Who still waits for it to read must
// not do so for ever.
func (w *wire) Shutdown() error {
	w.off()
	var on chan struct{}
	w.net.change(func() { on = w.on })
	go func() { // ends with the network, or when the wire is used again
		for {
			select {
			case <-w.MockTransport.PacketCh():
			case c := <-w.MockTransport.StreamCh():
				c.Close()
			case <-on:
				return
			case <-w.net.closed:
				return
			}
		}
	}()
	return nil
}

// off takes the member off the network: nothing reaches it or leaves it.
func (w *wire) off() {
	w.net.change(func() {
		if w.net.up[w.addr] {
			w.net.up[w.addr], w.on = false, make(chan struct{})
		}
	})
}

// plug lets a member use the wire.
func (w *wire) plug() {
	w.net.change(func() {
		w.net.up[w.addr] = true
		close(w.on)
	})
}

// conn is a stream that ends when its link is cut. Only the end that dialled has
// it, and that it writes late delays the answer too.
type conn struct {
	net.Conn
	net      *network
	from, to string
}

func (c *conn) passes() bool { return c.net.passes(c.from, c.to) && c.net.passes(c.to, c.from) }

func (c *conn) Write(b []byte) (int, error) {
	_, delay := c.net.weather()
	time.Sleep(delay)
	if !c.passes() {
		return 0, errCut
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	_, delay := c.net.weather()
	time.Sleep(delay)
	if !c.passes() {
		return 0, errCut
	}
	return c.Conn.Read(b)
}
