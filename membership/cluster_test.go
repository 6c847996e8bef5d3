package membership

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// network is a network in memory whose links can be cut, slowed and made to lose.
type network struct {
	mock memberlist.MockNetwork

	mu    sync.Mutex
	cut   map[[2]string]bool // from, to: one way
	gone  map[string]bool
	wires map[string]*wire // made before use, by name
	loss  float64
	delay time.Duration
	rnd   atomic.Uint64
}

// wire is one member's transport on the network.
type wire struct {
	*memberlist.MockTransport
	net  *network
	addr string
}

func (n *network) join(name string) *wire {
	t := n.mock.NewTransport(name)
	ip, port, err := t.FinalAdvertiseAddr("", 0)
	if err != nil {
		panic(err)
	}
	return &wire{MockTransport: t, net: n, addr: net.JoinHostPort(ip.String(), fmt.Sprint(port))}
}

var errCut = errors.New("the link is cut")

// passes tells whether something gets from one member to another now.
func (n *network) passes(from, to string, lossy bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[[2]string{from, to}] || n.gone[from] || n.gone[to] {
		return false
	}
	// The first 20 of each 100 packets is what 20 % loss does, the same in each run.
	return !lossy || n.loss == 0 || float64(n.rnd.Add(1)%100) >= n.loss*100
}

func (w *wire) WriteTo(b []byte, addr string) (time.Time, error) {
	return w.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (w *wire) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if !w.net.passes(w.addr, a.Addr, true) {
		return time.Now(), nil // lost packets are not noticed
	}
	w.net.mu.Lock()
	delay := w.net.delay
	w.net.mu.Unlock()
	// The mock's delivery waits for the receiver, a real one does not.
	b = bytes.Clone(b)
	time.AfterFunc(delay, func() {
		if w.net.passes(w.addr, a.Addr, false) {
			w.MockTransport.WriteTo(b, a.Addr)
		}
	})
	return time.Now(), nil
}

// Shutdown takes the member off the network.
func (w *wire) Shutdown() error {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	w.net.gone[w.addr] = true
	return nil
}

func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return w.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (w *wire) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if !w.net.passes(w.addr, a.Addr, false) || !w.net.passes(a.Addr, w.addr, false) {
		return nil, errCut
	}
	// The mock waits for ever for a receiver that has ended, and would look for
	// the name first.
	dialled := make(chan net.Conn, 1)
	go func() {
		if c, err := w.MockTransport.DialTimeout(a.Addr, timeout); err == nil {
			dialled <- c
		}
	}()
	select {
	case c := <-dialled:
		return c, nil
	case <-time.After(timeout):
		return nil, errCut
	}
}

// split cuts or heals all links between two groups, both ways.
func (n *network) split(cut bool, a, b []*node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range a {
		for _, y := range b {
			n.cut[[2]string{x.wire.addr, y.wire.addr}] = cut
			n.cut[[2]string{y.wire.addr, x.wire.addr}] = cut
		}
	}
}

// node is one running member.
type node struct {
	*Cluster
	wire *wire
	stop func()
}

// quick makes memberlist ten times as fast, so that its timeouts fit a test.
func quick(c *memberlist.Config) {
	c.ProbeInterval, c.ProbeTimeout = 100*time.Millisecond, 50*time.Millisecond
	c.GossipInterval, c.PushPullInterval = 20*time.Millisecond, 500*time.Millisecond
	c.GossipToTheDeadTime = 2 * time.Second
	c.TCPTimeout = 300 * time.Millisecond
	c.SuspicionMult = 4
}

// unhurried is for many members on few cores.
func unhurried(c *memberlist.Config) {
	c.ProbeInterval, c.ProbeTimeout = 2*time.Second, time.Second
	c.PushPullInterval = 2 * time.Second
}

func newNetwork() *network {
	return &network{cut: map[[2]string]bool{}, gone: map[string]bool{}, wires: map[string]*wire{}}
}

// start runs a member that knows the wires of seeds.
func (n *network) start(t *testing.T, name string, cfg Config, seeds ...*node) *node {
	t.Helper()
	w := n.wires[name]
	if w == nil {
		w = n.join(name)
	}
	cfg.Transport, cfg.RejoinEvery = w, 200*time.Millisecond
	if cfg.Tune == nil {
		cfg.Tune = quick
	}
	cfg.Listen = w.addr
	if cfg.ID == "" {
		cfg.ID = "id-" + name
	}
	if cfg.Node == "" {
		cfg.Node = name
	}
	for _, s := range seeds {
		cfg.Join = append(cfg.Join, s.wire.addr)
	}
	c, err := New(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return &node{Cluster: c, wire: w, stop: stop}
}

// cluster starts count members that join the first.
func (n *network) cluster(t *testing.T, count int, tune func(*memberlist.Config)) []*node {
	for i := range count { // the mock can't be added to while it is used
		name := fmt.Sprintf("n%d", i)
		n.wires[name] = n.join(name)
	}
	nodes := []*node{n.start(t, "n0", Config{Tune: tune})}
	for i := 1; i < count; i++ {
		nodes = append(nodes, n.start(t, fmt.Sprintf("n%d", i), Config{Tune: tune}, nodes[0]))
	}
	t.Cleanup(func() { // all at once: each goodbye takes its time
		var all sync.WaitGroup
		for _, x := range nodes {
			all.Go(x.stop)
		}
		all.Wait()
	})
	for _, x := range nodes {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := x.Join(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	return nodes
}

// eventually polls until check gives nil.
func eventually(t *testing.T, timeout time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", timeout, err)
		}
		<-tick.C
	}
}

// agree tells whether all hold the same facts and see as many members alive.
func agree(nodes []*node, alive int) func() error {
	return func() error {
		for _, n := range nodes {
			s := n.State()
			if s.Digest != nodes[0].State().Digest {
				return fmt.Errorf("%s and %s hold different facts", n.cfg.Node, nodes[0].cfg.Node)
			}
			count := 0
			for _, m := range s.Members {
				if m.Presence == Alive {
					count++
				}
			}
			if count != alive {
				return fmt.Errorf("%s sees %d of %d members alive", n.cfg.Node, count, alive)
			}
		}
		return nil
	}
}

func value(n *node, key string) string { return string(n.State().Facts[key].Value) }

func TestFactsReachEverybody(t *testing.T) {
	nodes := newNetwork().cluster(t, 3, quick)
	eventually(t, 10*time.Second, agree(nodes, 3))
	for i, n := range nodes {
		if err := n.Set("node/"+n.cfg.Node, i); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 2*time.Second, func() error {
		for _, n := range nodes {
			for i, other := range nodes {
				if got := value(n, "node/"+other.cfg.Node); got != fmt.Sprint(i) {
					return fmt.Errorf("%s has %q of %s", n.cfg.Node, got, other.cfg.Node)
				}
			}
		}
		return nil
	})
}

// TestSplitHeals: after a split that is longer than memberlist remembers the dead,
// everybody finds everybody again, and the newest facts hold on both sides.
func TestSplitHeals(t *testing.T) {
	n := newNetwork()
	nodes := n.cluster(t, 3, quick)
	nodes[0].Set("stream/x", "before")
	eventually(t, 10*time.Second, agree(nodes, 3))
	n.split(true, nodes[:1], nodes[1:])
	eventually(t, 20*time.Second, agree(nodes[:1], 1))
	eventually(t, 20*time.Second, agree(nodes[1:], 2))
	nodes[0].Set("stream/x", "left")
	nodes[1].Set("stream/x", "right, first")
	nodes[1].Set("stream/x", "right, then")
	// memberlist has given the lost members up by now, or will have.
	eventually(t, 20*time.Second, func() error {
		if k := nodes[0].list.NumMembers(); k != 1 {
			return fmt.Errorf("memberlist still counts %d", k)
		}
		return nil
	})
	n.split(false, nodes[:1], nodes[1:])
	eventually(t, 20*time.Second, agree(nodes, 3))
	if got := value(nodes[0], "stream/x"); got != `"right, then"` {
		t.Fatalf("the fact that was set most often lost against %s", got)
	}
}

// TestTrouble: with a fifth of the packets lost, delay, and one direction cut, the
// facts arrive and nobody is thought dead for long.
func TestTrouble(t *testing.T) {
	n := newNetwork()
	nodes := n.cluster(t, 4, quick)
	eventually(t, 10*time.Second, agree(nodes, 4))
	n.mu.Lock()
	n.loss, n.delay = 0.2, 10*time.Millisecond
	n.cut[[2]string{nodes[0].wire.addr, nodes[1].wire.addr}] = true
	n.mu.Unlock()
	for i := range 20 {
		nodes[i%4].Set(fmt.Sprintf("k/%d", i%7), i)
	}
	eventually(t, 30*time.Second, func() error {
		for _, x := range nodes {
			if x.State().Digest != nodes[0].State().Digest {
				return fmt.Errorf("%s differs", x.cfg.Node)
			}
		}
		return nil
	})
	n.mu.Lock()
	n.loss, n.delay, n.cut = 0, 0, map[[2]string]bool{}
	n.mu.Unlock()
	eventually(t, 30*time.Second, agree(nodes, 4))
}

func TestWhoFallsSilentIsLost(t *testing.T) {
	n := newNetwork()
	nodes := n.cluster(t, 3, quick)
	eventually(t, 10*time.Second, agree(nodes, 3))
	nodes[1].stop()
	n.split(true, nodes[:1], nodes[2:])
	eventually(t, 10*time.Second, func() error {
		for _, m := range nodes[0].State().Members {
			if (m.Presence == Lost) != (m.Node != "n0") {
				return fmt.Errorf("%s is %d", m.Node, m.Presence)
			}
		}
		return nil
	})
}

// TestNewMemberHearsFromEach: a member that joins through one that has missed a fact
// hears it from who set it, and does not wait for the exchange of all facts.
func TestNewMemberHearsFromEach(t *testing.T) {
	n := newNetwork()
	seldom := func(c *memberlist.Config) {
		quick(c)
		c.PushPullInterval = time.Hour
	}
	n.wires["late"] = n.join("late")
	nodes := n.cluster(t, 2, seldom)
	n.split(true, nodes[:1], nodes[1:])
	nodes[0].Set("missed", 1)
	nodes[0].Flush()
	n.split(false, nodes[:1], nodes[1:])
	late := n.start(t, "late", Config{Tune: seldom}, nodes[1])
	if _, err := late.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		if value(late, "missed") != "1" {
			return errors.New("the new member has not heard the fact")
		}
		return nil
	})
}

func TestSecondProxyOfANodeIsRefused(t *testing.T) {
	n := newNetwork()
	n.wires["twin"] = n.join("twin")
	nodes := n.cluster(t, 2, quick)
	twin := n.start(t, "twin", Config{Node: "n0"}, nodes[1])
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := twin.Join(ctx); !errors.Is(err, ErrNameTaken) {
		t.Fatalf("got %v, want ErrNameTaken", err)
	}
}

func TestForeignersStayOut(t *testing.T) {
	n := newNetwork()
	n.wires["foreign"] = n.join("foreign")
	home := n.start(t, "home", Config{Label: "blue"})
	foreign := n.start(t, "foreign", Config{Label: "red"}, home)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if k, _ := foreign.Join(ctx); k != 0 {
		t.Fatalf("a member with another label joined %d", k)
	}
	foreign.Set("stream/x", 1)
	if got := value(home, "stream/x"); got != "" {
		t.Fatalf("a foreign fact came in: %s", got)
	}
}

// TestFiftyMembers in one process find each other and the same facts.
func TestFiftyMembers(t *testing.T) {
	nodes := newNetwork().cluster(t, 50, unhurried)
	for _, n := range nodes {
		n.Set("node/"+n.cfg.Node, map[string]string{"state": "running"})
	}
	eventually(t, 60*time.Second, agree(nodes, 50))
	if k := len(nodes[7].State().Facts); k != 50 {
		t.Fatalf("%d facts", k)
	}
}

// TestRestartKeepsWhatWasKnown: a member that comes back knows its facts, finds
// the others by the addresses it remembers, and is the same member to them.
func TestRestartKeepsWhatWasKnown(t *testing.T) {
	n := newNetwork()
	n.wires["again"] = n.join("again")
	nodes := n.cluster(t, 2, quick)
	nodes[0].Set("stream/x", "kept")
	eventually(t, 5*time.Second, agree(nodes, 2))
	memory, err := json.Marshal(nodes[1].Memory())
	if err != nil {
		t.Fatal(err)
	}
	nodes[1].stop()
	var remembered Memory
	if err := json.Unmarshal(memory, &remembered); err != nil {
		t.Fatal(err)
	}
	again := n.start(t, "again", Config{ID: "id-n1", Node: "n1", Remember: remembered})
	if got := value(again, "stream/x"); got != `"kept"` {
		t.Fatalf("after the restart the fact is %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if k, err := again.Join(ctx); k == 0 || err != nil {
		t.Fatalf("joined %d by memory alone: %v", k, err)
	}
	eventually(t, 10*time.Second, agree([]*node{nodes[0], again}, 2))
}
