package membership

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Unix(1_000_000, 0)

// drawFacts makes facts of few keys, versions and owners, so that they collide.
func drawFacts(t *rapid.T, label string) []Fact {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Fact {
		f := Fact{
			Key:     rapid.SampledFrom([]string{"node/a", "stream/%2F/s", "shards/%2F/s/a"}).Draw(t, "key"),
			Version: rapid.Uint64Range(0, 4).Draw(t, "version"),
			Owner:   rapid.SampledFrom([]string{"a", "b"}).Draw(t, "owner"),
		}
		if n := rapid.IntRange(0, 3).Draw(t, "value"); n > 0 {
			f.Value = json.RawMessage(fmt.Sprint(n))
		}
		return f
	}), 0, 8).Draw(t, label)
}

func merged(sets ...[]Fact) *facts {
	s := newFacts(time.Hour)
	for _, set := range sets {
		s.merge(set, epoch)
	}
	return s
}

// TestMergeLaws: whatever the order and however often facts come, all nodes end
// with the same.
func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawFacts(t, "a"), drawFacts(t, "b"), drawFacts(t, "c")
		want := merged(a, b, c)
		for name, got := range map[string]*facts{
			"commutative":              merged(c, a, b),
			"idempotent":               merged(a, b, c, b, a),
			"associative":              merged(a, merged(b, c).list(epoch)),
			"through a third":          merged(merged(a, b).list(epoch), merged(b, c).list(epoch)),
			"one fact at a time, back": oneByOne(c, b, a),
		} {
			if diff := cmp.Diff(want.all, got.all); diff != "" || want.digest() != got.digest() {
				t.Fatalf("not %s:\n%s", name, diff)
			}
		}
	})
}

func oneByOne(sets ...[]Fact) *facts {
	s := newFacts(time.Hour)
	for _, set := range sets {
		for i := len(set) - 1; i >= 0; i-- {
			s.merge(set[i:i+1], epoch)
		}
	}
	return s
}

// TestFactsNeverGoBack: no merge replaces a fact by one that it beats, and what a
// node sets itself beats all that it has heard.
func TestFactsNeverGoBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newFacts(time.Hour)
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			before := map[string]Fact{}
			for k, f := range s.all {
				before[k] = f
			}
			if rapid.Bool().Draw(t, "own") {
				s.set("node/a", "a", json.RawMessage(`1`), epoch)
				if old, known := before["node/a"]; known && !s.all["node/a"].beats(old) {
					t.Fatal("a node's own fact did not hold")
				}
			} else {
				s.merge(drawFacts(t, "in"), epoch)
			}
			for k, old := range before {
				if old.beats(s.all[k]) {
					t.Fatalf("%s went from %+v to %+v", k, old, s.all[k])
				}
			}
		}
	})
}

// TestDeletion: a deletion beats older facts for as long as it is remembered,
// everywhere about as long, and does not go round for ever.
func TestDeletion(t *testing.T) {
	a, b := newFacts(time.Hour), newFacts(time.Hour)
	old := a.set("stream/%2F/s", "a", json.RawMessage(`{}`), epoch)
	a.set("stream/%2F/s", "a", nil, epoch)

	if a.merge([]Fact{old}, epoch) != nil || !a.all["stream/%2F/s"].Deleted() {
		t.Fatal("an old fact undid a deletion")
	}
	b.merge(a.list(epoch.Add(30*time.Minute)), epoch.Add(-24*time.Hour)) // a clock that is a day off
	b.forget(epoch.Add(-24*time.Hour + 29*time.Minute))
	if len(b.all) != 1 {
		t.Fatal("the deletion was forgotten too early")
	}
	b.forget(epoch.Add(-24*time.Hour + 31*time.Minute))
	if len(b.all) != 0 {
		t.Fatal("the deletion was not forgotten when its time was over")
	}
	late := a.list(epoch.Add(2 * time.Hour))
	if b.merge(late, epoch) != nil {
		t.Fatal("a forgotten deletion came back")
	}
}

func TestBrokenVersionsAreNotBelieved(t *testing.T) {
	s := newFacts(time.Hour)
	s.merge([]Fact{{Key: "k", Version: 1<<63 + 5, Owner: "x", Value: json.RawMessage(`1`)}, {Version: 3, Owner: "x"}}, epoch)
	if len(s.all) != 0 || s.clock != 0 {
		t.Fatalf("%v, clock %d", s.all, s.clock)
	}
}
