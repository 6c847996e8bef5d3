package membership

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// clock is one that is off.
type clock struct{ off atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.off.Load())) }

func (c *clock) jump(by time.Duration) { c.off.Add(int64(by)) }

// TestClocksThatAreOff: members whose clocks differ by an hour, and jump, hold the
// same facts, keep deletions deleted and forget them when their time is over.
func TestClocksThatAreOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNetwork(t, names(3)...)
		var nodes []*node
		var clocks []*clock
		for i, off := range []time.Duration{0, time.Hour, -time.Hour} {
			c := &clock{}
			c.jump(off)
			clocks = append(clocks, c)
			nodes = append(nodes, n.start(t, names(3)[i], Config{Now: c.now}, "n0"))
		}
		together(nodes, func(x *node) { x.join(t, 10*time.Second) })
		eventually(t, healTime, agree(nodes, 3))

		for i, x := range nodes {
			x.Set(fmt.Sprintf("kept/%d", i), i)
			x.Set(fmt.Sprintf("gone/%d", i), i)
			eventually(t, healTime, agree(nodes, 3))
		}
		n.split(true, nodes[:1], nodes[1:]) // n0 still has what is deleted meanwhile
		for i, other := range []int{2, 0} {
			nodes[i+1].Set(fmt.Sprintf("kept/%d", other), "newer")
			nodes[i+1].Set(fmt.Sprintf("gone/%d", other), nil)
		}
		clocks[1].jump(-2 * time.Hour)
		clocks[2].jump(2 * time.Hour)
		time.Sleep(time.Minute)
		n.split(false, nodes[:1], nodes[1:])
		eventually(t, healTime, agree(nodes, 3))
		for _, x := range nodes {
			for key, want := range map[string]string{
				"kept/0": `"newer"`, "kept/1": "1", "kept/2": `"newer"`, "gone/0": "", "gone/1": "1", "gone/2": "",
			} {
				if got := value(x, key); got != want {
					t.Errorf("%s has %q for %s, want %q", x.cfg.Node, got, key, want)
				}
			}
		}
		for _, c := range clocks { // more than the week, since clocks have jumped meanwhile
			c.jump(keepDeletions + 3*time.Hour)
		}
		time.Sleep(time.Minute)
		for _, x := range nodes {
			if k := len(x.State().Facts); k != 4 {
				t.Errorf("%s has %d facts, want the deletions forgotten", x.cfg.Node, k)
			}
		}
	})
}

// TestSkewedMerge: what nodes hold, and how long they remember it, does not depend
// on what their clocks say.
func TestSkewedMerge(t *testing.T) {
	type step struct{ node, to, what, wait int }
	keys := []string{"node/a", "stream/%2F/s"}
	// play does the steps on three nodes whose clocks are off, and gives what they
	// hold and would tell.
	play := func(steps []step, off [3]time.Duration) (told [3][]Fact) {
		var nodes [3]*facts
		for i := range nodes {
			nodes[i] = newFacts(time.Hour)
		}
		real := epoch
		for v, s := range steps {
			real = real.Add(time.Duration(s.wait) * time.Minute)
			now := func(i int) time.Time { return real.Add(off[i]) }
			x := nodes[s.node]
			x.forget(now(s.node))
			switch key := keys[s.what%2]; {
			case s.what < 2:
				x.set(key, fmt.Sprint(s.node), json.RawMessage(fmt.Sprint(v)), now(s.node))
			case s.what < 4:
				x.set(key, fmt.Sprint(s.node), nil, now(s.node))
			default:
				nodes[s.to].merge(x.list(now(s.node)), now(s.to))
			}
		}
		for i := range nodes {
			told[i] = nodes[i].list(real.Add(off[i]))
		}
		return told
	}
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOf(rapid.Custom(func(t *rapid.T) step {
			return step{
				node: rapid.IntRange(0, 2).Draw(t, "node"), to: rapid.IntRange(0, 2).Draw(t, "to"),
				what: rapid.IntRange(0, 9).Draw(t, "what"), wait: rapid.IntRange(0, 40).Draw(t, "wait"),
			}
		})).Draw(t, "steps")
		var off [3]time.Duration
		for i := range off {
			off[i] = time.Duration(rapid.IntRange(-3600, 3600).Draw(t, "off")) * time.Second
		}
		if diff := cmp.Diff(play(steps, [3]time.Duration{}), play(steps, off)); diff != "" {
			t.Fatalf("with clocks that are off by %v:\n%s", off, diff)
		}
	})
}
