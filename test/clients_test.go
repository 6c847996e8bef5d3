package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clientReport is what a client program in clients/ prints.
type clientReport struct {
	Client string
	Rounds []clientRound
}

// clientRound is what the client saw in one round.
type clientRound struct {
	Confirmed     int
	Passive       clientCounts // after the first publishes
	Consumed, Got []string
	Message       map[string]any // properties, body, exchange and routing key
	Refused       map[string]struct {
		Code int
		Text string
	}
	After clientCounts // when all is read and refused
}

type clientCounts struct {
	Queue               string
	Messages, Consumers int
}

// TestClientsPika: pika of Debian's package, unmodified.
func TestClientsPika(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3" // that of the distribution, for its packages
	if out, err := exec.Command(python, "-c", "import pika").CombinedOutput(); err != nil {
		t.Fatalf("pika is missing (apt-get install python3-pika): %v\n%s", err, out)
	}
	clientRounds(t, "pika ", python, "clients/rounds.py")
}

// TestClientsAmqplib: node's amqplib, unmodified, in the version of package.json.
func TestClientsAmqplib(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing (apt-get install nodejs npm): %v", program, err)
		}
	}
	version := clientInstall(t)
	clientRounds(t, "amqplib "+version, "node", "clients/rounds.js")
}

// clientInstall installs what package.json names, unless it is there.
func clientInstall(t *testing.T) (version string) {
	t.Helper()
	var wanted struct{ Dependencies map[string]string }
	var installed struct{ Version string }
	clientJSON(t, "clients/package.json", &wanted)
	version = wanted.Dependencies["amqplib"]
	const manifest = "clients/node_modules/amqplib/package.json"
	if _, err := os.Stat(manifest); err == nil {
		clientJSON(t, manifest, &installed)
	}
	if installed.Version == version {
		return version
	}
	install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	install.Dir = "clients"
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return version
}

func clientJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	sessionMust(t, err)
	sessionMust(t, json.Unmarshal(text, into))
}

// TestClientsLockFile: the lock file pins the client and names no registry.
func TestClientsLockFile(t *testing.T) {
	t.Parallel()
	var lock struct {
		Packages map[string]struct{ Version, Resolved, Integrity string }
	}
	var wanted struct{ Dependencies map[string]string }
	clientJSON(t, "clients/package-lock.json", &lock)
	clientJSON(t, "clients/package.json", &wanted)
	if p := lock.Packages["node_modules/amqplib"]; p.Version != wanted.Dependencies["amqplib"] || p.Integrity == "" {
		t.Errorf("amqplib is locked as %+v, want version %s", p, wanted.Dependencies["amqplib"])
	}
	for name, p := range lock.Packages {
		if p.Resolved != "" {
			t.Errorf("%s is locked to %s, want no host", name, p.Resolved)
		}
	}
}

// devConfig has as many shards as the programs have consumers.
const devConfig = `
definitions: {two: {shards-per-node: 2}}
policies: [{name: two, pattern: '^shard', stream-definition: two}]
`

// TestClientsDev: both on the embedded broker, as amqproxy dev and demo have it.
func TestClientsDev(t *testing.T) {
	t.Parallel()
	clientInstall(t)
	file := filepath.Join(t.TempDir(), "amqproxy.yaml")
	sessionMust(t, os.WriteFile(file, []byte(devConfig), 0o600))
	url := startDev(t, "-c", file).url
	clientRoundsAt(t, url, "shard.pika", "pika ", "/usr/bin/python3", "clients/rounds.py")
	clientRoundsAt(t, url, "shard.amqplib", "amqplib ", "node", "clients/rounds.js")
}

// clientRounds runs a client program against a proxy and checks what it saw.
func clientRounds(t *testing.T, name string, command ...string) {
	t.Helper()
	const stream = "logs.rounds"
	l := startStreams(t, map[string]string{"logs": "{shards-per-node: 2}"})
	clientRoundsAt(t, l.proxy.URL("guest", "guest", l.vhost), stream, name, command...)
	messages, consumers := l.shards(t, stream, 2)
	if !slices.Equal(messages, []int{0, 0}) || !slices.Equal(consumers, []int{0, 0}) {
		t.Errorf("the shards were left with %v messages and %v consumers", messages, consumers)
	}
}

func clientRoundsAt(t *testing.T, url, stream, name string, command ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	args := append(command[1:], url, stream)
	cmd := exec.CommandContext(ctx, command[0], args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v (%v)\n%s%s", command, err, context.Cause(ctx), &stdout, &stderr)
	}
	var report clientReport
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%s printed no JSON: %v\n%s", command, err, &stdout)
	}
	if !strings.HasPrefix(report.Client, name) || len(report.Rounds) != 3 {
		t.Fatalf("%d rounds of %q, want 3 of %s", len(report.Rounds), report.Client, name)
	}
	for n, round := range report.Rounds {
		t.Run(fmt.Sprint(stream, " round ", n), func(t *testing.T) { round.check(t, n, stream) })
	}
}

func (r clientRound) check(t *testing.T, n int, stream string) {
	const consumed, got = 100, 40
	if r.Confirmed != consumed+got+1 {
		t.Errorf("%d publishes were confirmed, want %d", r.Confirmed, consumed+got+1)
	}
	if want := (clientCounts{stream, consumed, 0}); r.Passive != want {
		t.Errorf("passive declare says %+v, want %+v", r.Passive, want)
	}
	if want := (clientCounts{stream, 0, 0}); r.After != want {
		t.Errorf("in the end passive declare says %+v, want %+v", r.After, want)
	}
	clientWantBodies(t, r.Consumed, fmt.Sprintf("consume-%d", n), consumed)
	clientWantBodies(t, r.Got, fmt.Sprintf("get-%d", n), got)
	if diff := cmp.Diff(clientMessage(stream), r.Message); diff != "" {
		t.Errorf("the message came back as another (- sent, + received):\n%s", diff)
	}
	for _, method := range []string{"queue.declare", "queue.bind", "queue.unbind", "queue.purge", "queue.delete"} {
		refused := r.Refused[method]
		if refused.Code != 406 || !strings.Contains(refused.Text, "PRECONDITION_FAILED") ||
			!strings.Contains(refused.Text, method) || !strings.Contains(refused.Text, stream) {
			t.Errorf("%s got %d %q, want 406 with its name and that of %s", method, refused.Code, refused.Text, stream)
		}
	}
}

// clientWantBodies wants PREFIX-0 to PREFIX-(count-1), each once, in any order.
func clientWantBodies(t *testing.T, got []string, prefix string, count int) {
	t.Helper()
	want := streamKeys(prefix, count)
	slices.Sort(want)
	got = slices.Sorted(slices.Values(got))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("other messages came (- sent, + received):\n%s", diff)
	}
}

func clientMessage(stream string) map[string]any {
	return map[string]any{
		"body": "with properties", "exchange": stream, "routing_key": "a key",
		"content_type": "text/plain", "content_encoding": "utf-8",
		"headers": map[string]any{"text": "ü", "number": -5.0, "yes": true,
			"list": []any{"a", 1.0}, "table": map[string]any{"deep": "b"}},
		"delivery_mode": 2.0, "priority": 3.0, "correlation_id": "c-1", "reply_to": "amq.direct",
		"expiration": "3600000", "message_id": "m-1", "timestamp": 1234567890.0,
		"type": "kind", "user_id": "guest", "app_id": "app",
	}
}
