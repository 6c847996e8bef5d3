package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"
)

// groupReport is what a client program in clients/ prints of a group.
type groupReport struct {
	Client    string
	Consumers []groupClient
	Refused   map[string]int
}

// groupClient is what one consumer saw.
type groupClient struct {
	Name      string
	Seen      [][3]any // key, number, redelivered
	Tags      []uint64
	Most      int    // that it held at once
	Returned  [2]any // what it gave back once: key, number
	Cancelled bool
}

// These are what the programs do.
const (
	groupClientKeys, groupClientMessages = 12, 20
	groupClientPrefetch                  = 10
)

// TestManyGroupPika: two consumers of pika's on two proxies, which ack several at once.
func TestManyGroupPika(t *testing.T) {
	groupClients(t, "/usr/bin/python3", "clients/group.py")
}

// TestManyGroupAmqplib: the same with node's amqplib.
func TestManyGroupAmqplib(t *testing.T) {
	clientInstall(t)
	groupClients(t, "node", "clients/group.js")
}

// groupClients runs a program on brokers apart, and checks what its consumers saw: each
// message once and in the order of its key, but for what they gave back, and no more at once
// than they asked for.
func groupClients(t *testing.T, command ...string) {
	t.Helper()
	t.Parallel()
	g := startGroups(t, apart, 2, "", "")
	stream := g.make("ordered", "clients")
	command = append(command, stream)
	for _, p := range g.proxies {
		command = append(command, p.URL("guest", "guest", g.vhost))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	stdin, err := cmd.StdinPipe()
	sessionMust(t, err)
	sessionMust(t, cmd.Start())
	g.shared(stream, []int{0, 1, 2}, 3, 3)
	sessionMust(t, stdin.Close())
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%q: %v\n%s%s", command, err, &stdout, &stderr)
	}
	var report groupReport
	sessionMust(t, json.Unmarshal(stdout.Bytes(), &report))
	if len(report.Consumers) != 2 || report.Refused["mode"] != 406 || report.Refused["exclusive"] != 403 {
		t.Errorf("%s saw %d consumers, and was refused with %v", report.Client, len(report.Consumers), report.Refused)
	}
	seen, last, returned := map[string]int{}, map[any]float64{}, map[any]bool{}
	for _, c := range report.Consumers {
		returned[c.Returned[0]] = true
		c.check(t)
		for _, m := range c.Seen {
			seen[fmt.Sprint(m[0], " ", m[1])]++
		}
	}
	for _, c := range report.Consumers {
		for _, m := range c.Seen {
			number, _ := m[1].(float64)
			if before, more := last[m[0]]; more && number <= before && !returned[m[0]] {
				t.Errorf("%s: %v %v came after %v", c.Name, m[0], number, before)
			}
			last[m[0]] = number
		}
	}
	if len(seen) != groupClientKeys*groupClientMessages {
		t.Errorf("%d different messages came, want %d", len(seen), groupClientKeys*groupClientMessages)
	}
	for m, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", m, n)
		}
	}
	g.unread(stream)
	g.ready(stream, 0)
}

// check looks at one consumer by itself.
func (c groupClient) check(t *testing.T) {
	t.Helper()
	for i, tag := range c.Tags {
		if tag != uint64(i+1) {
			t.Errorf("%s: delivery %d has tag %d", c.Name, i+1, tag)
			break
		}
	}
	if c.Most > groupClientPrefetch || c.Most < 2 || len(c.Seen) == 0 || !c.Cancelled {
		t.Errorf("%s got %d messages, held %d at once, and was cancelled with the stream: %v", c.Name, len(c.Seen), c.Most, c.Cancelled)
	}
	for _, m := range c.Seen {
		if again := m[0] == c.Returned[0] && m[1] == c.Returned[1]; again && m[2] != true {
			t.Errorf("%s: %v came again and is said to be new", c.Name, m)
		}
	}
}
