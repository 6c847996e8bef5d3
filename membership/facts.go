package membership

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

// maxVersion bounds what is believed of a version, so that a broken peer can't
// use up the numbers.
const maxVersion = 1 << 62

// Fact is something that one node tells all. Facts of one key replace each other:
// the higher version holds, and of equal ones the higher owner, then the higher
// value, so that all nodes keep the same whatever the order in which they hear.
type Fact struct {
	Key     string          `json:"k"`
	Version uint64          `json:"v"`
	Owner   string          `json:"o"`
	Value   json.RawMessage `json:"d,omitempty"` // none: the fact is deleted
	// Age is how long ago it was deleted, in seconds, as the sender counts:
	// durations travel and not times, since clocks differ.
	Age int64 `json:"a,omitempty"`
}

// Deleted tells that the key has no value any more.
func (f Fact) Deleted() bool { return len(f.Value) == 0 }

// beats tells whether f holds against g.
func (f Fact) beats(g Fact) bool {
	return cmp.Or(cmp.Compare(f.Version, g.Version), cmp.Compare(f.Owner, g.Owner), bytes.Compare(f.Value, g.Value)) > 0
}

// facts is the map of facts of one node. Merging is commutative, associative and
// idempotent, and no merge makes a key go back. Not safe for concurrent use.
type facts struct {
	all       map[string]Fact
	died      map[string]time.Time // when a deleted fact was deleted
	clock     uint64               // the highest version heard of
	sum       uint64               // see digest
	lasting   uint64               // the same of those that do not pass
	transient func(key string) bool
	keepFor   time.Duration // how long a deletion is remembered
}

func newFacts(keepFor time.Duration) *facts {
	return &facts{all: map[string]Fact{}, died: map[string]time.Time{}, keepFor: keepFor, transient: func(string) bool { return false }}
}

// set makes a fact that beats all that was heard of before. A nil value deletes.
func (s *facts) set(key, owner string, value json.RawMessage, now time.Time) Fact {
	f := Fact{Key: key, Version: s.clock + 1, Owner: owner, Value: value}
	s.put(f, now)
	return f
}

func (s *facts) put(f Fact, now time.Time) {
	s.clock = max(s.clock, f.Version)
	delete(s.died, f.Key)
	if f.Deleted() {
		s.died[f.Key] = now.Add(-time.Duration(f.Age) * time.Second)
	}
	f.Age = 0
	if old, known := s.all[f.Key]; known {
		s.counts(old)
	}
	s.counts(f)
	s.all[f.Key] = f
}

// counts adds a fact to the digests, or takes it out.
func (s *facts) counts(f Fact) {
	h := f.hash()
	s.sum ^= h
	if !s.transient(f.Key) {
		s.lasting ^= h
	}
}

func (f Fact) hash() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %d %q %q", f.Key, f.Version, f.Owner, f.Value)
	return h.Sum64()
}

// merge takes facts of others and gives those that are news here.
func (s *facts) merge(others []Fact, now time.Time) (news []Fact) {
	for _, f := range others {
		old, known := s.all[f.Key]
		switch {
		case f.Key == "" || f.Version == 0 || f.Version > maxVersion:
			continue
		case known && !f.beats(old):
			continue
		case !known && f.Deleted() && time.Duration(f.Age)*time.Second > s.keepFor:
			continue // what is forgotten here must not live on by going round
		}
		s.put(f, now)
		news = append(news, f)
	}
	return news
}

// list gives all facts by key, or those of keys, in the form in which they travel.
func (s *facts) list(now time.Time, keys ...string) []Fact {
	if keys == nil {
		keys = slices.Sorted(maps.Keys(s.all))
	}
	out := make([]Fact, 0, len(keys))
	for _, k := range keys {
		if f, known := s.all[k]; known {
			if at, dead := s.died[k]; dead {
				f.Age = max(0, int64(now.Sub(at)/time.Second))
			}
			out = append(out, f)
		}
	}
	return out
}

// forget drops deletions that are old enough.
func (s *facts) forget(now time.Time) {
	for k, at := range s.died {
		if now.Sub(at) > s.keepFor {
			s.counts(s.all[k])
			delete(s.died, k)
			delete(s.all, k)
		}
	}
}

// digest is the same on two nodes that hold the same facts: the hashes of all of
// them, whatever their order.
func (s *facts) digest() uint64 { return s.sum }
