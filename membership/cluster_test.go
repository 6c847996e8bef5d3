package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// node is one running member.
type node struct {
	*Cluster
	wire *wire
	stop func()
}

// start runs a member on the wire of its name, which may join those of seeds.
func (n *network) start(t *testing.T, name string, cfg Config, seeds ...string) *node {
	t.Helper()
	w := n.wires[name]
	cfg.Transport, cfg.Listen = w, w.addr
	if cfg.ID == "" {
		cfg.ID = "id-" + name
	}
	if cfg.Node == "" {
		cfg.Node = name
	}
	for _, s := range seeds {
		cfg.Join = append(cfg.Join, n.wires[s].addr)
	}
	w.plug()
	c, err := New(cfg, zap.New(n.log))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	running.Go(func() { watch(ctx, t, c) })
	x := &node{Cluster: c, wire: w, stop: sync.OnceFunc(func() { cancel(); running.Wait() })}
	t.Cleanup(x.stop)
	return x
}

// crash ends the member without a goodbye.
func (x *node) crash() {
	x.wire.off()
	x.stop()
}

// watch fails the test when a fact of the member goes back. A deletion may be
// forgotten, but what it deleted must not return.
func watch(ctx context.Context, t *testing.T, c *Cluster) {
	before := c.State().Facts
	for {
		select {
		case <-c.Changed():
		case <-ctx.Done():
			return
		}
		now := maps.Clone(c.State().Facts)
		for key, old := range before {
			f, known := now[key]
			if known && old.beats(f) || !known && !old.Deleted() {
				t.Errorf("on %s the fact %s went from version %d to %d", c.cfg.Node, key, old.Version, f.Version)
			}
			if !known {
				now[key] = old
			}
		}
		before = now
	}
}

// names are n0, n1 and so on.
func names(count int) []string {
	var out []string
	for i := range count {
		out = append(out, fmt.Sprintf("n%d", i))
	}
	return out
}

// cluster starts a member for each of the first count names, who join the first,
// and waits until they have found each other.
func (n *network) cluster(t *testing.T, count int, cfg Config) []*node {
	t.Helper()
	var nodes []*node
	for _, name := range names(count) {
		nodes = append(nodes, n.start(t, name, cfg, "n0"))
	}
	t.Cleanup(func() { together(nodes, func(x *node) { x.stop() }) }) // each goodbye takes its time
	together(nodes, func(x *node) { x.join(t, 10*time.Second) })
	eventually(t, 10*time.Second, agree(nodes, count))
	return nodes
}

func together(nodes []*node, do func(*node)) {
	var all sync.WaitGroup
	for _, x := range nodes {
		all.Go(func() { do(x) })
	}
	all.Wait()
}

// join is Join, for at most so long.
func (x *node) join(t *testing.T, within time.Duration) int {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	k, err := x.Join(ctx)
	if err != nil {
		t.Error(err)
	}
	return k
}

// eventually polls until check gives nil, and tells how long that took.
func eventually(t *testing.T, timeout time.Duration, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > timeout {
			t.Fatalf("after %s: %v", timeout, err)
		}
		<-tick.C
	}
}

// alive counts the members that one sees alive, itself among them.
func (x *node) alive() int {
	count := 0
	for _, m := range x.State().Members {
		if m.Presence == Alive {
			count++
		}
	}
	return count
}

// agree tells whether all hold the same facts and see as many members alive.
func agree(nodes []*node, alive int) func() error {
	return func() error {
		for _, x := range nodes {
			if k := x.alive(); k != alive {
				return fmt.Errorf("%s sees %d of %d members alive", x.cfg.Node, k, alive)
			}
			if x.State().Digest != nodes[0].State().Digest {
				return fmt.Errorf("%s and %s hold different facts", x.cfg.Node, nodes[0].cfg.Node)
			}
		}
		return nil
	}
}

func value(x *node, key string) string { return string(x.State().Facts[key].Value) }

func TestFactsReachEverybody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		nodes := newNetwork(t, names(3)...).cluster(t, 3, Config{})
		for i, x := range nodes {
			if err := x.Set("node/"+x.cfg.Node, i); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, time.Second, func() error {
			for _, x := range nodes {
				for i, other := range nodes {
					if got := value(x, "node/"+other.cfg.Node); got != fmt.Sprint(i) {
						return fmt.Errorf("%s has %q of %s", x.cfg.Node, got, other.cfg.Node)
					}
				}
			}
			return nil
		})
	})
}

// TestFiftyMembers in one process find each other and the same facts, those that
// were there before they knew anybody too.
func TestFiftyMembers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(50)...)
		var nodes []*node
		for _, name := range names(50) {
			x := n.start(t, name, Config{}, "n0")
			x.Set("node/"+name, map[string]string{"state": "running"})
			nodes = append(nodes, x)
		}
		t.Cleanup(func() { together(nodes, func(x *node) { x.stop() }) })
		together(nodes, func(x *node) { x.join(t, 10*time.Second) })
		took := eventually(t, time.Minute, agree(nodes, 50))
		t.Logf("after %s all see all", took)
		if k := len(nodes[7].State().Facts); k != 50 {
			t.Fatalf("%d facts", k)
		}
	})
}

// TestWhoFallsSilentIsLost, and so is who says goodbye.
func TestWhoFallsSilentIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(3)...)
		nodes := n.cluster(t, 3, Config{})
		nodes[1].stop()
		eventually(t, time.Second, agree([]*node{nodes[0], nodes[2]}, 2))
		nodes[2].crash()
		t.Logf("a crash was noticed after %s", eventually(t, 30*time.Second, agree(nodes[:1], 1)))
	})
}

// TestWhoIsDroppedSaysNothing: neither that it goes, nor what it sets afterwards, though
// the network would carry it.
func TestWhoIsDroppedSaysNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(3)...)
		nodes := n.cluster(t, 3, Config{})
		nodes[2].Drop()
		if err := nodes[2].Set("late", 1); err != nil {
			t.Error(err)
		}
		nodes[2].stop()
		if took := eventually(t, 30*time.Second, agree(nodes[:2], 2)); took < time.Second {
			t.Errorf("it was given up after %s: somebody has told", took)
		}
		for _, x := range nodes[:2] {
			if f, known := x.State().Facts["late"]; known {
				t.Errorf("%s has heard of %s", x.cfg.Node, f.Key)
			}
		}
	})
}

func TestSecondProxyOfANodeIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, "n0", "n1", "twin")
		n.cluster(t, 2, Config{})
		twin := n.start(t, "twin", Config{Node: "n0"}, "n1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := twin.Join(ctx); !errors.Is(err, ErrNameTaken) {
			t.Fatalf("got %v, want ErrNameTaken", err)
		}
	})
}

// TestRestartKeepsWhatWasKnown: a member that comes back at another address knows
// its facts, finds the others by the addresses it remembers, and is the same
// member to them, whether it had said goodbye or crashed.
func TestRestartKeepsWhatWasKnown(t *testing.T) {
	for name, end := range map[string]func(*node){"stop": func(x *node) { x.stop() }, "crash": (*node).crash} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNetwork(t, "n0", "n1", "again")
				nodes := n.cluster(t, 2, Config{})
				nodes[0].Set("stream/x", "kept")
				eventually(t, time.Second, agree(nodes, 2))
				memory, err := json.Marshal(nodes[1].Memory())
				if err != nil {
					t.Fatal(err)
				}
				end(nodes[1])
				var remembered Memory
				if err := json.Unmarshal(memory, &remembered); err != nil {
					t.Fatal(err)
				}
				again := n.start(t, "again", Config{ID: "id-n1", Node: "n1", Remember: remembered})
				if got := value(again, "stream/x"); got != `"kept"` {
					t.Fatalf("after the restart the fact is %q", got)
				}
				if again.join(t, 10*time.Second) == 0 {
					t.Fatal("by memory alone nobody was found")
				}
				eventually(t, time.Minute, func() error {
					if s := nodes[0].State(); len(s.Members) != 2 || s.Members[1].Addr != again.wire.addr {
						return fmt.Errorf("the members are %+v", s.Members)
					}
					return agree([]*node{nodes[0], again}, 2)()
				})
			})
		})
	}
}

// TestJoinExchangesFacts even with those that the new member has heard of by gossip
// already, which tells of members only: they think it alive still.
func TestJoinExchangesFacts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(2)...)
		quiet := Config{Tune: func(c *memberlist.Config) { c.PushPullInterval = 0 }} // no exchange but Join's
		nodes := n.cluster(t, 2, quiet)
		nodes[0].Set("stream/x", "old")
		eventually(t, time.Second, agree(nodes, 2))
		memory := nodes[1].Memory()
		nodes[1].crash()
		nodes[0].Set("stream/x", nil)
		quiet.ID, quiet.Remember = "id-n1", memory
		again := n.start(t, "n1", quiet)
		eventually(t, 20*time.Second, func() error {
			if again.alive() < 2 {
				return errors.New("it has heard of nobody")
			}
			return nil
		})
		if again.join(t, time.Second) == 0 || value(again, "stream/x") != "" {
			t.Errorf("after it has joined the fact is %q", value(again, "stream/x"))
		}
	})
}
