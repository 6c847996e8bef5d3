package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"amqproxy/test/daemon"
)

// cliLab is a stream of two shards with a message in it, a consumer and a session.
func cliLab(t *testing.T) (l *streamLab, client string) {
	t.Helper()
	l = startStreams(t, map[string]string{"logs": `{shards-per-node: 2, routing-key: "30"}`})
	l.declare(t, "logs.a")
	l.publish(t, streamKeyed("logs.a", "k")...)
	conn := l.dial(t)
	ch := streamOpen(t, conn)
	if _, err := ch.Consume("logs.a", "", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	client = conn.LocalAddr().String()
	daemon.Eventually(t, streamPatience, func() error { // the other sessions have ended
		if _, body := l.proxy.Get("/api/v1/sessions"); strings.Count(body, `"client"`) != 3 {
			return fmt.Errorf("want the sessions of declare, publish and consume, got %s", body)
		}
		return nil
	})
	return l, client
}

// TestCLIStatusTable: status prints what the daemon knows as aligned tables.
func TestCLIStatusTable(t *testing.T) {
	t.Parallel()
	l, client := cliLab(t)
	config := cliFile(t, "amqproxy.yaml", "admin: {listen: "+l.proxy.Admin()+"}\n")
	table, stderr, code := daemon.Run(t, "status", "--admin", l.proxy.Admin())
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	if again, _, _ := daemon.Run(t, "status", "-c", config); again != table {
		t.Errorf("with -c it says\n%s\nwith --admin\n%s", again, table)
	}
	for _, want := range []string{l.broker.Addr(), "logs.a", l.vhost, streamShard("logs.a", 0), streamShard("logs.a", 1), client, "guest", streamNode} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	cliAligned(t, table)
}

// cliAligned wants the cells of each block of lines to begin in the same columns:
// where a head has a word, each row has one too or a blank.
func cliAligned(t *testing.T, table string) {
	t.Helper()
	for block := range strings.SplitSeq(strings.TrimSpace(table), "\n\n") {
		lines := strings.Split(block, "\n")
		if len(lines) < 3 {
			t.Errorf("want a title, a head and rows, got\n%s", block)
			continue
		}
		head := lines[1]
		for at := 1; at < len(head); at++ {
			if head[at-1] != ' ' || head[at] == ' ' {
				continue
			}
			for _, row := range lines[2:] {
				if at < len(row) && row[at-1] != ' ' {
					t.Errorf("not aligned at column %d:\n%s", at, block)
				}
			}
		}
	}
}

// TestCLIStatusJSON: status -o json is what the admin listener says, whole.
func TestCLIStatusJSON(t *testing.T) {
	t.Parallel()
	l, client := cliLab(t)
	stdout, stderr, code := daemon.Run(t, "status", "-o", "json", "--admin", l.proxy.Admin())
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	var status map[string][]map[string]any
	if err := json.Unmarshal([]byte(stdout), &status); err != nil {
		t.Fatalf("no JSON: %v\n%s", err, stdout)
	}
	row := func(list, key string, value any) map[string]any {
		for _, row := range status[list] {
			if row[key] == value {
				return row
			}
		}
		t.Fatalf("no %s with %s %v in\n%s", list, key, value, stdout)
		return nil
	}
	want := func(row map[string]any, fields map[string]any) {
		t.Helper()
		for key, value := range fields {
			if row[key] != value {
				t.Errorf("%s is %v, want %v, in %v", key, row[key], value, row)
			}
		}
	}
	want(row("brokers", "address", l.broker.Addr()), map[string]any{"node": streamNode, "reachable": true})
	want(row("streams", "stream", "logs.a"), map[string]any{"vhost": l.vhost, "state": "ready", "type": "x-consistent-hash",
		"hash_on": "routing-key", "policy": "logs", "shards": 2.0, "messages_published": 1.0})
	consumers := 0.0
	for i := range 2 {
		shard := row("shards", "queue", streamShard("logs.a", i))
		want(shard, map[string]any{"vhost": l.vhost, "stream": "logs.a", "node": streamNode, "index": float64(i), "weight": 30.0, "ready": true})
		n, _ := shard["consumers"].(float64)
		consumers += n
	}
	if consumers != 1 {
		t.Errorf("the shards have %v consumers, want 1", consumers)
	}
	session := row("sessions", "client", client)
	want(session, map[string]any{"user": "guest", "vhost": l.vhost, "channels": 1.0})
	since, err := time.Parse(time.RFC3339Nano, fmt.Sprint(session["connected_at"]))
	if err != nil || time.Since(since) > time.Minute {
		t.Errorf("connected_at is %v, %v; want a time just now", session["connected_at"], err)
	}
}
