package node

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/membership"
	"amqproxy/shard"
)

var drained = shard.Name{VHost: "/", Stream: "s.a"}

// local is the queue of this node's shard with an index.
func local(index int) string {
	return shard.QueueName(shard.DefaultPrefix, drained.Stream, "n1", index)
}

// alone is node n1 without gossip and without a broker, which wants one shard of each
// stream and remembers facts.
func alone(t *testing.T, facts map[string]any) *Node {
	t.Helper()
	var memory membership.Memory
	for _, f := range picture(t, facts).Facts {
		memory.Facts = append(memory.Facts, f)
	}
	cluster, err := membership.New(membership.Config{ID: "id", Node: "n1", Remember: memory}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	rules := shard.NewRules(shard.Parameters{ShardsPerNode: 1}, nil, []shard.Policy{{Name: "p", Pattern: regexp.MustCompile(`^s\.`), VHost: "/"}})
	return New(Config{Name: "n1", Rules: rules}, keeper.New("127.0.0.1:1"), cluster, zap.NewNop())
}

// fewer is a node that was told to have three shards, of which the last closed.
func fewer(t *testing.T, facts map[string]any) (*Node, *stream) {
	t.Helper()
	all := map[string]any{
		streamKey(drained): streamFact{Born: "1"},
		shardsKey(drained, "n1"): shardsFact{Born: "1", Shards: []shardFact{{Queue: local(0), Weight: 1}, {Queue: local(1), Weight: 1}},
			Retired: []retiredFact{{Queue: local(2), Closing: "before"}}},
	}
	for key, value := range facts {
		all[key] = value
	}
	n := alone(t, all)
	return n, n.streams[drained]
}

// tell has another node say something, and this one hear it.
func (n *Node) tell(key string, value any) {
	n.set(key, value)
	n.reconcile()
}

func (n *Node) says(t *testing.T, key string) (f holdsFact, said bool) {
	t.Helper()
	return read[holdsFact](n.cluster.State(), key)
}

// TestRetire: shards that the configuration wants no more are told as retired, and one
// that was about to close is read again.
func TestRetire(t *testing.T) {
	n, s := fewer(t, nil)
	f, _ := read[shardsFact](n.cluster.State(), shardsKey(drained, "n1"))
	want := []retiredFact{{Queue: local(1)}, {Queue: local(2)}}
	if len(f.Shards) != 1 || f.Shards[0].Queue != local(0) || !slices.Equal(f.Retired, want) {
		t.Errorf("told is %+v", f)
	}
	for i, want := range []shard.Standing{shard.InUse, shard.Retired, shard.Retired, shard.NoShard} {
		if got := n.Snapshot().Standing("/", local(i)); got != want {
			t.Errorf("shard %d stands at %d, want %d", i, got, want)
		}
	}
	table := n.Snapshot().Tables()[drained]
	if len(table.Shards) != 1 || len(table.Sources()) != 3 || len(s.sources()) != 3 {
		t.Errorf("%d shards in use; sources are %v and %v", len(table.Shards), table.Sources(), s.sources())
	}
}

// seen lets the node look at the shard that retires, with what the broker says of it.
func (n *Node) seen(s *stream, c keeper.Counts) *retiree {
	r := s.retired[0]
	n.look(s, nil, []string{r.queue}, []keeper.Counts{c})
	n.reconcile()
	return r
}

// TestLook: a shard closes when it was empty twice and nobody holds anything of it,
// is to be deleted when that is so twice again and all are free of it, and is read
// again when something came back.
func TestLook(t *testing.T) {
	n, s := fewer(t, nil)
	r := s.retired[0]
	at := shard.Queue{VHost: "/", Name: r.queue}
	empty := keeper.Counts{}
	free := func() { n.Walk()() }
	steps := []struct {
		why     string
		before  func()
		counts  keeper.Counts
		closing bool
		empty   int
	}{
		{"it is bound still", func() {}, empty, false, 0},
		{"empty once", func() { r.unbound = true }, empty, false, 1},
		{"its node is down", func() {}, keeper.Counts{Missing: true}, false, 0},
		{"empty once more", func() {}, empty, false, 1},
		{"messages", func() {}, keeper.Counts{Messages: 1}, false, 0},
		{"a consumer may be there", func() {}, keeper.Counts{Consumers: 1}, false, 1},
		{"held", func() { n.Hold("/", r.queue) }, empty, false, 0},
		{"empty for the first time", func() { n.Free("/", r.queue) }, empty, false, 1},
		{"empty twice", func() {}, empty, true, 0},
		{"nobody has said anything", func() {}, empty, true, 0},
		{"a consumer of ours", func() { n.seats[at]++; free() }, empty, true, 0},
		{"free", func() { n.Leave("/", r.queue); free() }, empty, true, 1},
		{"a consumer", func() {}, keeper.Counts{Consumers: 1}, true, 0},
		{"free once", func() {}, empty, true, 1},
		{"free twice", func() {}, empty, true, 2},
		{"a message came back", func() {}, keeper.Counts{Messages: 1}, false, 0},
		{"empty again", func() {}, empty, false, 1},
		{"empty twice again", func() {}, empty, true, 0},
		{"who was free before is not now", func() {}, empty, true, 0},
		{"free again", free, empty, true, 1},
	}
	for _, step := range steps {
		step.before()
		n.seen(s, step.counts)
		if (r.closing != "") != step.closing || r.empty != step.empty {
			t.Fatalf("%s: closing %q, empty %d", step.why, r.closing, r.empty)
		}
		standing := shard.Retired
		if step.closing {
			standing = shard.Closing
		}
		if got := n.Snapshot().Standing("/", r.queue); got != standing {
			t.Fatalf("%s: the snapshot says %d", step.why, got)
		}
	}
	n.seen(s, keeper.Counts{Missing: true, Gone: true})
	if len(s.retired) != 1 || n.Snapshot().Standing("/", at.Name) != shard.NoShard {
		t.Errorf("it is gone, and %d shards retire", len(s.retired))
	}
}

// TestFree: every node that is known has to say that it is free of this closing, but
// for those that have ended in order or whose broker is down with them.
func TestFree(t *testing.T) {
	n, s := fewer(t, map[string]any{nodeKey("n2"): nodeFact{Condition: Running}, nodeKey("n3"): nodeFact{Condition: Running}})
	r := s.retired[0]
	r.closing = "now"
	free := func(why string, want bool) {
		t.Helper()
		n.mu.Lock()
		defer n.mu.Unlock()
		if got := n.free(s, r); got != want {
			t.Errorf("%s: %v", why, got)
		}
	}
	say := func(node, closing string) {
		n.tell(holdsKey(drained, node), holdsFact{Free: map[string]string{r.queue: closing}})
	}
	say("n1", "now")
	say("n2", "now")
	free("n3 has said nothing", false)
	say("n3", "before")
	free("n3 spoke of another time", false)
	say("n3", "now")
	free("all", true)
	n.tell(holdsKey(drained, "n3"), holdsFact{})
	free("n3 holds something", false)
	n.tell(nodeKey("n3"), nodeFact{Condition: Stopping})
	free("n3 has ended", true)
	n.tell(holdsKey(drained, "n2"), nil)
	free("n2 took it back", false)
	n.lostAnswers("n2", false)
	free("n2 is down with its broker", true)
}

// TestWalk: a node says that it is free of the shards that close when all its sessions
// know that they do, whatever its own policies are, and takes it back.
func TestWalk(t *testing.T) {
	other := shard.Name{VHost: "/", Stream: "t.other"} // no policy is for it
	q := shard.Queue{VHost: "/", Name: "q"}
	key := holdsKey(other, "n1")
	closing := func(when string) shardsFact {
		return shardsFact{Born: "1", Retired: []retiredFact{{Queue: "q", Closing: when}}}
	}
	n := alone(t, map[string]any{
		streamKey(other): streamFact{Born: "1"}, shardsKey(other, "n2"): closing("x"),
		key:                     holdsFact{Free: map[string]string{"q": "x"}}, // of a former run
		holdsKey(other, "n2"):   holdsFact{},
		holdsKey(drained, "n1"): holdsFact{},
	})
	free := func(why, want string) {
		t.Helper()
		if f, _ := n.says(t, key); f.Free["q"] != want {
			t.Fatalf("%s: free is %q, want %q", why, f.Free["q"], want)
		}
	}
	free("at the start", "")
	if n.Snapshot().Standing("/", "q") != shard.Closing {
		t.Error("a shard of a stream without a policy is none")
	}
	n.Hold("/", "q")
	n.Walk()()
	free("held", "")
	n.Free("/", "q")
	done := n.Walk()
	n.republish() // what else changes does not matter
	done()
	free("all sessions know", "x")
	n.Hold("/", "q")
	n.Walk()()
	free("held again", "")
	n.Free("/", "q")
	n.seats[q]++
	n.Walk()()
	free("a consumer", "")
	n.Leave("/", "q")
	done = n.Walk()
	n.tell(shardsKey(other, "n2"), closing("y"))
	done()
	free("it has closed anew", "")
	n.Walk()()
	free("and that is known", "y")
	n.tell(shardsKey(other, "n2"), shardsFact{Born: "1"})
	if _, said := n.says(t, key); said {
		t.Error("what was said of a shard that is gone stays")
	}
	if _, said := n.says(t, holdsKey(other, "n2")); !said {
		t.Error("another node's words were taken back")
	}
	if _, said := n.says(t, holdsKey(drained, "n1")); said {
		t.Error("what was said before the start stays")
	}
}

// TestRetiredPause: shards that can't be looked after do not hold up the others.
func TestRetiredPause(t *testing.T) {
	n, s := fewer(t, nil)
	due := s.dueAt
	if err := n.keeper.Unbind(t.Context(), drained, []string{"q"}, s.settings.Local); err == nil {
		t.Fatal("there is a broker")
	}
	n.drain(t.Context(), s)
	if all, _ := n.retired(s); len(all) > 0 || time.Until(s.drainAt) < retryMax/2 || !s.dueAt.Equal(due) {
		t.Errorf("%v are due, the next time is in %s", all, time.Until(s.drainAt))
	}
}

// TestUnbind: a retired shard is unbound when every proxy that may have sessions has
// said that they know.
func TestUnbind(t *testing.T) {
	n, s := fewer(t, map[string]any{nodeKey("n2"): nodeFact{Condition: Running}, nodeKey("n3"): nodeFact{Condition: Stopping}})
	if _, unbind := n.retired(s); len(unbind) > 0 {
		t.Errorf("nobody has said anything, and %v would be unbound", unbind)
	}
	n.Walk()()
	if _, unbind := n.retired(s); len(unbind) > 0 {
		t.Errorf("n2 has said nothing, and %v would be unbound", unbind)
	}
	n.tell(holdsKey(drained, "n2"), holdsFact{Left: []string{local(2)}})
	if _, unbind := n.retired(s); !slices.Equal(unbind, []string{local(2)}) {
		t.Errorf("%v would be unbound, want what both know of", unbind)
	}
	began := n.Walk()
	n.tell(shardsKey(drained, "n2"), shardsFact{Born: "1", Retired: []retiredFact{{Queue: "late"}}})
	began()
	if f, _ := n.says(t, holdsKey(drained, "n1")); !slices.Equal(f.Left, []string{local(1), local(2)}) {
		t.Errorf("this node says of %v that its sessions know", f.Left)
	}
}
