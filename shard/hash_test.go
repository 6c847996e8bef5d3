package shard

import (
	"bufio"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew; only ever together with a new HashVersion")

func table(weights ...uint32) *Table {
	var shards []Shard
	for i, w := range weights {
		q := QueueName(DefaultPrefix, "shard.logs_stream", fmt.Sprintf("rabbit%d@host", i%3+1), i/3)
		shards = append(shards, Shard{Queue: q, Weight: w})
	}
	return NewTable("/", "shard.logs_stream", &Settings{}, Declared{}, shards, &Counters{})
}

// TestGoldenVectors holds the contract: these keys are on these shards, for ever
// and on every architecture.
func TestGoldenVectors(t *testing.T) {
	const path = "testdata/vectors.txt"
	tables := map[string]*Table{"equal": table(1, 1, 1, 1, 1, 1), "weighted": table(1, 2, 3, 10000, 999983, 1000000)}
	keys := []string{"", "a", "b", "logs.info", "order-4711", "\x00", "ключ", strings.Repeat("k", 255)}
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("key-%d", i))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# version %d: weights, key, queue\n", HashVersion)
	for _, name := range []string{"equal", "weighted"} {
		for _, k := range keys {
			tb := tables[name]
			fmt.Fprintf(&b, "%s\t%q\t%s\n", name, k, tb.Shards[tb.Pick(KeyHash([]byte(k)))].Queue)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := bufio.NewScanner(strings.NewReader(b.String()))
	for n, line := range strings.Split(strings.TrimSuffix(string(want), "\n"), "\n") {
		if !got.Scan() || got.Text() != line {
			t.Errorf("line %d:\n got %s\nwant %s", n+1, got.Text(), line)
		}
	}
	if got.Scan() {
		t.Errorf("vectors without a line in %s", path)
	}
}

// chiSquare counts where n distinct keys go and gives the statistic against the
// shares that the weights promise.
func chiSquare(tb *Table, n int) float64 {
	counts, sum := make([]int, len(tb.Shards)), 0.0
	for _, s := range tb.Shards {
		sum += float64(s.Weight)
	}
	for i := range n {
		counts[tb.Pick(KeyHash(fmt.Appendf(nil, "user-%d", i)))]++
	}
	x := 0.0
	for i, s := range tb.Shards {
		want := float64(n) * float64(s.Weight) / sum
		x += math.Pow(float64(counts[i])-want, 2) / want
	}
	return x
}

func TestDistribution(t *testing.T) {
	// Critical values of chi-square at p = 0.001.
	for _, c := range []struct {
		tb       *Table
		critical float64
	}{
		{table(1, 1, 1, 1, 1, 1), 20.52},                   // 5 degrees of freedom
		{table(10000, 10000, 10000, 10000, 10000), 18.47},  // 4
		{table(1, 2, 3), 13.82},                            // 2
		{table(1000000, 500000, 250000, 125000, 1), 18.47}, // 4
	} {
		if x := chiSquare(c.tb, 100_000); x > c.critical {
			t.Errorf("%d shards: chi-square %.2f is over %.2f", len(c.tb.Shards), x, c.critical)
		}
	}
}

// TestRemovalMovesItsKeysOnly: without a shard its keys go elsewhere, all others
// stay; with it again everything is as before.
func TestRemovalMovesItsKeysOnly(t *testing.T) {
	for _, whole := range []*Table{table(1, 1, 1, 1, 1, 1), table(1, 2, 3, 4, 5, 6)} {
		for gone := range whole.Shards {
			var rest []Shard
			for i, s := range whole.Shards {
				if i != gone {
					rest = append(rest, s)
				}
			}
			part := NewTable("/", whole.Stream, whole.Settings, whole.Declared, rest, nil)
			to := map[string]int{}
			for i := range 10_000 {
				h := KeyHash(fmt.Appendf(nil, "key-%d", i))
				before, after := whole.Shards[whole.Pick(h)].Queue, part.Shards[part.Pick(h)].Queue
				if before == whole.Shards[gone].Queue {
					to[after]++
				} else if before != after {
					t.Fatalf("key %d moved from %s to %s, which shard %d has nothing to do with", i, before, after, gone)
				}
			}
			if len(to) != len(rest) {
				t.Errorf("the keys of shard %d went to %d of %d others", gone, len(to), len(rest))
			}
		}
	}
}

func TestEqualWeightsAgreeWithWeighted(t *testing.T) {
	tb := table(7, 7, 7, 7, 7)
	for i := range 100_000 {
		h := KeyHash(fmt.Appendf(nil, "%d", i))
		if a, b := tb.Pick(h), tb.pickWeighted(h); a != b {
			t.Fatalf("key %d: %d by plain comparison, %d by weights", i, a, b)
		}
	}
}

func TestNegLog(t *testing.T) {
	last := uint64(math.MaxUint64)
	for shift := 63; shift >= 0; shift-- {
		for _, u := range []uint64{1 << shift >> 1, 1<<shift - 1, 1 << shift, 1<<shift | 1<<shift>>1} {
			want := 64 - math.Log2(float64(u))
			if got := float64(negLog(u)) / (1 << logPoint); u > 0 && math.Abs(got-want) > 1e-6 {
				t.Errorf("negLog(%#x) = %.9f, want %.9f", u, got, want)
			}
		}
	}
	for i := uint64(0); i < 100_000; i++ {
		if n := negLog(i * (math.MaxUint64 / 100_000)); n > last {
			t.Fatalf("negLog rises at step %d", i)
		} else {
			last = n
		}
	}
}

func TestEmptyTable(t *testing.T) {
	if i := table().Pick(5); i != -1 {
		t.Fatalf("an empty table picked %d", i)
	}
}

func TestRules(t *testing.T) {
	defs := map[string]Definition{
		"two":  {Parameters: Parameters{ShardsPerNode: 2, Weight: 1234}},
		"bare": {},
		"user": {Parameters: Parameters{Local: Login{"ops", "o"}}},
	}
	policy := func(name, pattern, vhost string, prio int, def string) Policy {
		return Policy{Name: name, Pattern: regexp.MustCompile(pattern), VHost: vhost, Priority: prio, Definition: def}
	}
	policies := []Policy{
		policy("all", `^s\.`, "/", 0, "bare"),
		policy("first", `^s\.two`, "/", 5, "two"),
		policy("second", `^s\.two`, "/", 5, "bare"),
		policy("every", `^e\.`, "*", 0, "user"),
	}
	global := Parameters{ShardsPerNode: 7, Local: Login{"g", "p"}}
	r := NewRules(global, defs, policies)
	for _, c := range []struct {
		vhost, name, policy string
		spn                 int
		weight              uint32
		user, password      string
	}{
		{"/", "s.two.x", "first", 2, 1234, "g", "p"}, // highest priority, then first; definition over global
		{"/", "s.x", "all", 7, DefaultWeight, "g", "p"},
		{"other", "s.x", "", 0, 0, "", ""},
		{"other", "e.x", "every", 7, DefaultWeight, "ops", "o"},
		{"/", "xs.two", "", 0, 0, "", ""},
		{"/", "", "", 0, 0, "", ""},
	} {
		s, ok := r.Match(c.vhost, c.name)
		if !ok {
			if c.policy != "" {
				t.Errorf("%s in %s matches nothing", c.name, c.vhost)
			}
			continue
		}
		if s.Policy != c.policy || s.ShardsPerNode != c.spn || s.Weight != c.weight || s.Local != (Login{c.user, Password(c.password)}) {
			t.Errorf("%s in %s: %+v", c.name, c.vhost, s)
		}
	}
	catchAll := NewRules(Parameters{}, nil, []Policy{policy("p", ".*", "*", 0, "")})
	s, _ := catchAll.Match("/", "x")
	if s.ShardsPerNode != DefaultShardsPerNode || s.Local != (Login{DefaultUsername, DefaultPassword}) || s.QueuePrefix != DefaultPrefix {
		t.Errorf("defaults: %+v", s)
	}
	for _, never := range []string{"", "amq.direct", "amq.rabbitmq.trace"} {
		if _, ok := catchAll.Match("/", never); ok {
			t.Errorf("%q became a stream", never)
		}
	}
}

func TestParse(t *testing.T) {
	for _, s := range []string{"1", "10000", "1000000"} {
		if _, err := ParseWeight(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "0", "-1", "1.5", "abc", "1000001", "99999999999999999999", "+1", " 1"} {
		if w, err := ParseWeight(s); err == nil {
			t.Errorf("weight %q was read as %d", s, w)
		}
	}
	for _, s := range []string{"routing-key", "header:x", "header:property:x", "property:message_id", "property:timestamp"} {
		if h, err := ParseHashOn(s); err != nil || h.String() != s {
			t.Errorf("%q: %v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "header:", "header", "property:app_id", "x"} {
		if h, err := ParseHashOn(s); err == nil {
			t.Errorf("hash-on %q was read as %v", s, h)
		}
	}
}

func TestLocalQueues(t *testing.T) {
	s := &Settings{Definition: Definition{Parameters: Parameters{ShardsPerNode: 2}, QueuePrefix: DefaultPrefix}}
	q, err := LocalQueues(s, "shard.logs_stream", "rabbit1@hostname")
	if err != nil || len(q) != 2 || q[0] != "stream: shard.logs_stream - rabbit1@hostname - 0" {
		t.Fatalf("%q, %v", q, err)
	}
	if _, err := LocalQueues(s, strings.Repeat("v", 240), "n"); err == nil {
		t.Fatal("a name over 255 bytes was accepted")
	}
}

func BenchmarkPick(b *testing.B) {
	key := []byte("order-4711")
	for name, tb := range map[string]*Table{"equal": table(1, 1, 1, 1, 1, 1), "weighted": table(1, 2, 3, 4, 5, 6)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tb.Pick(KeyHash(key))
			}
		})
	}
}
