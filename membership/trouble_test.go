package membership

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// healTime is how long members may take to find each other again: a round of
// joining, and some exchanges of facts.
const healTime = 45 * time.Second

// never fails the test if within so long any member sees less than all alive.
func never(t *testing.T, nodes []*node, within time.Duration) {
	t.Helper()
	for range within / (100 * time.Millisecond) {
		time.Sleep(100 * time.Millisecond)
		for _, x := range nodes {
			if k := x.alive(); k != len(nodes) {
				t.Fatalf("%s sees %d of %d members alive", x.cfg.Node, k, len(nodes))
			}
		}
	}
}

// TestTrouble: whatever the network does to members that can still reach each
// other, nobody is thought lost and facts reach everybody. Streams only get slow,
// as TCP does; the packets of probes get lost.
func TestTrouble(t *testing.T) {
	for name, trouble := range map[string]func(*network, []*node){
		"a fifth of the packets lost": func(n *network, _ []*node) { n.change(func() { n.loss = 0.2 }) },
		"300 ms delay":                func(n *network, _ []*node) { n.change(func() { n.delay = 300 * time.Millisecond }) },
		"one link cut one way":        func(n *network, x []*node) { n.link(x[0], x[1], true) },
		"one link cut both ways":      func(n *network, x []*node) { n.split(true, x[:1], x[1:2]) },
		"loss and delay":              func(n *network, x []*node) { n.change(func() { n.loss, n.delay = 0.2, 300*time.Millisecond }) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNetwork(t, names(4)...)
				nodes := n.cluster(t, 4, Config{})
				trouble(n, nodes)
				never(t, nodes, 30*time.Second)
				for i := range 20 {
					nodes[i%4].Set(fmt.Sprintf("k/%d", i%7), i)
					nodes[i%3].Set(fmt.Sprintf("k/%d", i%5), nil)
				}
				t.Logf("facts took %s", eventually(t, healTime, agree(nodes, 4)))
				never(t, nodes, 30*time.Second)
			})
		})
	}
}

// TestAllTroubleAtOnce may make a member think another lost, but not for longer
// than the trouble lasts.
func TestAllTroubleAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(4)...)
		nodes := n.cluster(t, 4, Config{})
		n.change(func() { n.loss, n.delay = 0.2, 300*time.Millisecond })
		n.link(nodes[0], nodes[1], true)
		n.link(nodes[2], nodes[0], true)
		for round := range 30 {
			for _, x := range nodes {
				x.Set(fmt.Sprintf("k/%d", round%7), round)
			}
			time.Sleep(2 * time.Second)
		}
		eventually(t, healTime, func() error {
			for _, x := range nodes {
				if x.State().Digest != nodes[0].State().Digest {
					return fmt.Errorf("%s holds other facts", x.cfg.Node)
				}
			}
			return nil
		})
		n.change(func() { n.loss, n.delay, n.cut = 0, 0, map[[2]string]bool{} })
		eventually(t, healTime, agree(nodes, 4))
	})
}

// TestTwoMembersCutOneWay lose each other, both, and find each other again.
func TestTwoMembersCutOneWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(2)...)
		nodes := n.cluster(t, 2, Config{})
		n.link(nodes[0], nodes[1], true)
		for i := range nodes {
			eventually(t, time.Minute, agree(nodes[i:i+1], 1))
			nodes[i].Set("k", i)
		}
		n.link(nodes[0], nodes[1], false)
		t.Logf("healed after %s", eventually(t, healTime, agree(nodes, 2)))
	})
}

// TestSplitHeals: after a split everybody finds everybody again, and what was set
// most often holds on both sides. memberlist alone does that for a while only: the
// last case is the proof that the second split is longer.
func TestSplitHeals(t *testing.T) {
	never := 1000 * time.Hour
	for name, c := range map[string]struct {
		lasts, rejoin time.Duration
		stays         bool
	}{
		"a minute":                          {lasts: time.Minute},
		"longer than memberlist tries":      {lasts: 2 * time.Minute},
		"which memberlist alone never does": {lasts: 2 * time.Minute, rejoin: never, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNetwork(t, names(5)...)
				nodes := n.cluster(t, 5, Config{RejoinEvery: c.rejoin})
				left, right := nodes[:2], nodes[2:]
				apart := func() error { return errors.Join(agree(left, 2)(), agree(right, 3)()) }
				nodes[0].Set("stream/x", "before")
				eventually(t, time.Second, agree(nodes, 5))
				n.split(true, left, right)
				began := time.Now()
				t.Logf("noticed after %s", eventually(t, 50*time.Second, apart))
				nodes[0].Set("stream/x", "left")
				nodes[2].Set("stream/x", "right, first")
				nodes[2].Set("stream/x", "right, then")
				nodes[1].Set("stream/y", "left alone")
				nodes[4].Set("stream/z", "right alone")
				time.Sleep(c.lasts - time.Since(began))
				n.split(false, left, right)
				if c.stays {
					time.Sleep(10 * time.Minute)
					if err := apart(); err != nil {
						t.Fatalf("it healed without our joining: %v", err)
					}
					return
				}
				t.Logf("healed after %s", eventually(t, healTime, agree(nodes, 5)))
				for _, x := range nodes {
					got := value(x, "stream/x") + value(x, "stream/y") + value(x, "stream/z")
					if got != `"right, then""left alone""right alone"` {
						t.Fatalf("%s holds %s", x.cfg.Node, got)
					}
				}
			})
		})
	}
}

// TestWhoIsNewIsToldFacts at once that the member which it has joined has missed.
func TestWhoIsNewIsToldFacts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(3)...)
		alone := Config{Tune: func(c *memberlist.Config) { c.PushPullInterval = 0 }} // no exchange will help
		nodes := n.cluster(t, 2, alone)
		n.link(nodes[1], nodes[0], true)
		nodes[1].Set("stream/x", 1)
		nodes[1].Flush()
		n.link(nodes[1], nodes[0], false)
		x := n.start(t, "n2", alone, "n0")
		x.join(t, time.Second)
		eventually(t, 2*time.Second, func() error {
			if value(x, "stream/x") == "" || value(nodes[0], "stream/x") != "" {
				return errors.New("want the fact on the new member, and not on the one that it has joined")
			}
			return nil
		})
	})
}

// TestAnyOrder: three members that know each other's addresses and start one
// after the other, long after or at once, find each other whoever is first.
func TestAnyOrder(t *testing.T) {
	for _, pause := range []time.Duration{0, 100 * time.Millisecond, time.Minute} {
		for _, order := range [][]string{{"a", "b", "c"}, {"a", "c", "b"}, {"b", "a", "c"}, {"b", "c", "a"}, {"c", "a", "b"}, {"c", "b", "a"}} {
			t.Run(fmt.Sprint(pause, order), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					n := newNetwork(t, "a", "b", "c")
					var nodes []*node
					for _, name := range order {
						others := slices.DeleteFunc(slices.Clone(order), func(o string) bool { return o == name })
						x := n.start(t, name, Config{}, others...)
						x.Set("node/"+name, "starting")
						go x.join(t, 10*time.Second)
						nodes = append(nodes, x)
						time.Sleep(pause)
					}
					eventually(t, healTime, agree(nodes, 3))
					if k := len(nodes[0].State().Facts); k != 3 {
						t.Fatalf("%d facts", k)
					}
				})
			})
		}
	}
}
