package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// groupWatched is an ordered group of two readers and more that stand by, with messages that
// nobody has acknowledged.
type groupWatched struct {
	*groups
	stream string
	conns  map[string]*amqp.Connection // by consumer tag
	of     map[string]int              // the proxy of each
}

func watchGroup(t *testing.T, on *threeBrokers) *groupWatched {
	w := &groupWatched{groups: startGroups(t, on, 1, "", ""), conns: map[string]*amqp.Connection{}, of: map[string]int{}}
	w.stream = w.make("ordered", "watched")
	for i := range 5 { // two stand by
		tag := fmt.Sprint("c", i)
		conn, _ := w.dial(i % 3)
		w.conns[tag], w.of[tag] = conn, i%3
		w.consume(streamOpen(t, conn), w.stream, tag, 3)
	}
	w.shared(w.stream, []int{0, 1, 2}, 1, 1, 1, 0, 0)
	w.publish(0, w.stream, 60, "x")
	return w
}

// TestManyGroupView: the admin listener of every proxy shows the whole group, and the command
// prints it.
func TestManyGroupView(t *testing.T) { bothBeside(t, testManyGroupView) }

func testManyGroupView(t *testing.T, on *threeBrokers) {
	w := watchGroup(t, on)
	w.shows()
	w.prints()
}

// shows looks at the admin listeners: who reads which shard where, who stands by, what is
// ready and what is not acknowledged.
func (w *groupWatched) shows() {
	t := w.t
	held := map[string]int{}
	for _, queue := range predict(w.stream, 60, w.all(w.stream)) {
		held[queue]++
	}
	for i, p := range w.proxies {
		daemon.Eventually(t, streamPatience, func() error { // counts come with time
			v, err := w.seen(i, w.stream)
			if err != nil {
				return err
			}
			for _, s := range v.Shards {
				if s.Unacked != 3 || s.Ready != held[s.Queue]-3 {
					return fmt.Errorf("proxy %d shows %d ready and %d unacked in %s, which holds %d, of which the consumer has 3", i, s.Ready, s.Unacked, s.Queue, held[s.Queue])
				}
			}
			return nil
		})
		v, err := w.seen(i, w.stream)
		sessionMust(t, err)
		if v.Mode != "ordered" || len(v.Shards) != 3 || len(v.Standby) != 2 {
			t.Errorf("proxy %d shows %+v", i, v)
		}
		var members []groupMember
		for _, s := range v.Shards {
			members = append(members, groupMember{s.Consumer, s.Proxy, s.Client})
			if !strings.HasSuffix(s.Queue, " - "+s.Node+" - 0") || s.State != "active" {
				t.Errorf("proxy %d shows %+v", i, s)
			}
		}
		w.wantMembers(i, append(members, v.Standby...))
		w.wantKeys(p)
	}
}

// wantMembers wants each consumer once, with its own proxy and address.
func (w *groupWatched) wantMembers(i int, got []groupMember) {
	w.t.Helper()
	want := map[string]groupMember{}
	for tag, conn := range w.conns {
		want[tag] = groupMember{tag, w.brokers[w.of[tag]].Name(), conn.LocalAddr().String()}
	}
	seen := map[string]groupMember{}
	for _, m := range got {
		seen[m.Consumer] = m
	}
	if diff := cmp.Diff(want, seen); diff != "" || len(got) != len(want) {
		w.t.Errorf("proxy %d shows %d consumers, others than there are (- there, + shown):\n%s", i, len(got), diff)
	}
}

// wantKeys wants just the fields that are promised.
func (w *groupWatched) wantKeys(p *daemon.Proxy) {
	w.t.Helper()
	_, body := p.Get("/api/v1/groups")
	var rows []map[string]any
	sessionMust(w.t, json.Unmarshal([]byte(body), &rows))
	names := func(of any) []string {
		m, _ := of.(map[string]any)
		return slices.Sorted(maps.Keys(m))
	}
	for _, row := range rows {
		shards, _ := row["shards"].([]any)
		standby, _ := row["standby"].([]any)
		if row["stream"] != w.stream || len(shards) == 0 || len(standby) == 0 {
			w.t.Errorf("shown is %v", row)
			continue
		}
		for want, got := range map[string][]string{
			"mode shards standby stream vhost":                     names(row),
			"client consumer node proxy queue ready state unacked": names(shards[0]),
			"client consumer proxy":                                names(standby[0]),
		} {
			if strings.Join(got, " ") != want {
				w.t.Errorf("the fields are %q, want %q", got, want)
			}
		}
	}
}

// prints looks at what `amqproxy groups` prints, which is the same from any node, for all
// streams or for one.
func (w *groupWatched) prints() {
	t := w.t
	other := w.make("balanced", "other")
	w.consume(w.channel(0), other, "elsewhere", 1)
	w.shared(other, []int{0, 1, 2}, 3)
	run := func(i int, args ...string) string {
		t.Helper()
		out, stderr, code := daemon.Run(t, append([]string{"groups", "--admin", w.proxies[i].Admin()}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("groups %q: exit code %d, stderr %q", args, code, stderr)
		}
		return out
	}
	all := run(0)
	for i := range w.proxies {
		one := run(i, w.stream)
		for tag, conn := range w.conns {
			for _, want := range []string{tag, conn.LocalAddr().String(), w.brokers[w.of[tag]].Name()} {
				if !strings.Contains(one, want) || !strings.Contains(all, want) {
					t.Errorf("proxy %d: no %q in\n%s", i, want, one)
				}
			}
		}
		for _, s := range w.all(w.stream) {
			if strings.Count(one, s.Queue) != 1 || !strings.Contains(all, s.Queue) {
				t.Errorf("proxy %d: %q is not once in\n%s", i, s.Queue, one)
			}
		}
		if strings.Count(one, "active") < 3 || !strings.Contains(one, "ordered") {
			t.Errorf("proxy %d shows\n%s", i, one)
		}
		if strings.Contains(one, other) || strings.Contains(one, "elsewhere") || !strings.Contains(all, "elsewhere") {
			t.Errorf("proxy %d shows of one stream\n%s\nand of all\n%s", i, one, all)
		}
	}
	cliAligned(t, strings.NewReplacer("stand by (0)\n", "", "stand by (", "\nstand by (").Replace(all))
	if out, stderr, code := daemon.Run(t, "groups", "ordered.unknown", "--admin", w.proxies[0].Admin()); strings.Contains(out+stderr, w.stream) {
		t.Errorf("of a stream that is not there it shows (exit code %d)\n%s%s", code, out, stderr)
	}
}

// TestManyGroupMetrics: moves and how long they took are counted, and shards that nobody
// reads are told, by every proxy.
func TestManyGroupMetrics(t *testing.T) { bothBeside(t, testManyGroupMetrics) }

func testManyGroupMetrics(t *testing.T, on *threeBrokers) {
	g := startGroups(t, on, 2, "", "")
	sum := func(name string) (sum float64) {
		for _, p := range g.proxies {
			found := false
			for sample, v := range sessionMetrics(t, p) {
				if base, _, _ := strings.Cut(sample, "{"); base == name {
					sum, found = sum+v, true
				}
			}
			if !found {
				t.Errorf("no metric %s", name)
			}
		}
		return sum
	}
	f := g.flow("ordered", "metrics", 120)
	for i := range g.proxies {
		v, err := g.seen(i, f.stream)
		sessionMust(t, err)
		for _, s := range v.Shards {
			if s.State != "uncovered" || s.Consumer != "" || len(v.Shards) != 6 {
				t.Errorf("without consumers, proxy %d shows %+v", i, v)
			}
		}
	}
	if n := sum("amqproxy_group_shards_uncovered"); n != 3*6 {
		t.Errorf("without consumers %v shards are uncovered as three proxies have it, want 6 each", n)
	}
	first := f.join(0, 20)
	f.shared(f.stream, []int{0, 1, 2}, 6)
	moves, handed := sum("amqproxy_group_moves_total"), sum("amqproxy_group_handover_seconds_count")
	f.produce(0, 0)
	f.another(1)
	f.join(1, 20)
	f.shared(f.stream, []int{0, 1, 2}, 3, 3)
	f.another(1)
	f.end()
	daemon.Eventually(t, streamPatience, func() error {
		if n := sum("amqproxy_group_moves_total") - moves; n < 3 {
			return fmt.Errorf("%v moves are counted, want 3", n)
		}
		if n := sum("amqproxy_group_handover_seconds_count") - handed; n < 3 {
			return fmt.Errorf("%v hand-overs are counted, want 3", n)
		}
		if n := sum("amqproxy_group_shards_uncovered"); n != 0 {
			return fmt.Errorf("%v shards are shown as uncovered, want none", n)
		}
		return nil
	})
	if n := sum("amqproxy_group_handover_seconds_bucket"); n <= 0 {
		t.Errorf("the histogram's buckets have %v in them", n)
	}
	f.verdict(t, false)
	first.leave()
	for _, p := range g.proxies {
		_, body := p.Get("/metrics")
		for _, want := range []string{"# TYPE amqproxy_group_shards_uncovered gauge", "# TYPE amqproxy_group_moves_total counter", "# TYPE amqproxy_group_handover_seconds histogram"} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in the metrics", want)
			}
		}
	}
}
