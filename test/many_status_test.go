package test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"amqproxy/test/daemon"
)

// TestManyStatus: the command shows the same members, streams and shards whichever
// proxy it asks, as JSON and as tables.
func TestManyStatus(t *testing.T) { bothBeside(t, testManyStatus) }

func testManyStatus(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 2, "")
	streams := []string{"shard.status-a", "shard.status-b"}
	for i, s := range streams {
		m.declare(i, s)
	}
	m.complete(streams, 6, streamPatience, 0, 1, 2)
	var first map[string][]map[string]any
	m.channels(3) // a session each
	for i, p := range m.proxies {
		status := m.status(i)
		if first == nil {
			first = status
		}
		for what, rows := range map[string]int{"members": 3, "streams": 2, "shards": 12} {
			if len(status[what]) != rows {
				t.Errorf("proxy %d shows %d %s, want %d", i, len(status[what]), what, rows)
			}
			if !reflect.DeepEqual(status[what], first[what]) {
				t.Errorf("proxy %d shows the %s\n%v\nand proxy 0\n%v", i, what, status[what], first[what])
			}
		}
		for _, member := range status["members"] {
			if member["presence"] != "alive" || member["condition"] != "running" || member["version"] == "" {
				t.Errorf("proxy %d shows %v", i, member)
			}
		}
		for _, s := range status["streams"] {
			if s["state"] != "ready" {
				t.Errorf("proxy %d shows %v", i, s)
			}
		}
		if b := status["brokers"]; len(b) == 0 || b[0]["reachable"] != true {
			t.Errorf("proxy %d shows the brokers %v", i, b)
		}

		table, stderr, code := daemon.Run(t, "status", "--admin", p.Admin())
		if code != 0 || stderr != "" {
			t.Fatalf("exit code %d, stderr %q", code, stderr)
		}
		for j, b := range m.brokers {
			for _, want := range []string{b.Name(), b.Addr(), m.gossip[j], m.plain(streams[0], 2, j)[1].Queue, m.plain(streams[1], 2, j)[0].Queue} {
				if !strings.Contains(table, want) {
					t.Errorf("no %q in what proxy %d shows:\n%s", want, i, table)
				}
			}
		}
		cliAligned(t, table)
	}
}

// TestManyStatusOfLost: a proxy that has ended and one that has crashed are told
// apart by the others, and shown with their shards.
func TestManyStatusOfLost(t *testing.T) { bothBeside(t, testManyStatusOfLost) }

func testManyStatusOfLost(t *testing.T, on *threeBrokers) {
	m := startMany(t, on, 1, "")
	const stream = "shard.status"
	m.declare(0, stream)
	m.complete([]string{stream}, 3, streamPatience, 0, 1, 2)
	m.proxies[1].Stop(20 * time.Second)
	m.proxies[2].Kill()
	daemon.Eventually(t, 15*time.Second, func() error {
		for i, want := range []string{"alive running true", "lost stopping false", "lost running true"} {
			member := view[memberView](t, m.proxies[0], "members")[i]
			s := view[shardView](t, m.proxies[0], "shards")[i]
			if got := fmt.Sprint(member.Presence, " ", member.Condition, " ", s.Ready); got != want {
				return fmt.Errorf("%s is %q, want %q", member.Node, got, want)
			}
		}
		return nil
	})
}

// status is what the command says of proxy i, without what is its own alone: which
// member it is itself, what went through it, and who uses it.
func (m *many) status(i int) map[string][]map[string]any {
	m.t.Helper()
	out, stderr, code := daemon.Run(m.t, "status", "-o", "json", "--admin", m.proxies[i].Admin())
	if code != 0 || stderr != "" {
		m.t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	var status map[string][]map[string]any
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		m.t.Fatalf("no JSON: %v\n%s", err, out)
	}
	for _, member := range status["members"] {
		if self := member["node"] == m.brokers[i].Name(); member["self"] != self {
			m.t.Errorf("proxy %d shows %v", i, member)
		}
		delete(member, "self")
	}
	for _, s := range status["streams"] {
		for name := range s {
			if strings.HasPrefix(name, "messages_") || name == "methods_refused" {
				delete(s, name)
			}
		}
	}
	for _, s := range status["shards"] {
		delete(s, "consumers")
	}
	return status
}
