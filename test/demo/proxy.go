package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"amqproxy/test/broker"
)

// proxy is one amqproxy. It keeps its ports over a demo, since it is not started again.
type proxy struct {
	cmd      *exec.Cmd
	dir      string
	addr     string // for clients
	admin    string
	log      bytes.Buffer  // read it after followed
	followed chan struct{} // closed when the process has closed its stderr
}

// startProxy runs the binary as a user would, beside a broker, and returns when it accepts clients.
// It finds the others through the gossip addresses in join.
func startProxy(ctx context.Context, binary string, rabbit *broker.Node, join []string) (*proxy, error) {
	dir, err := os.MkdirTemp("", "amqproxy-demo-")
	if err != nil {
		return nil, err
	}
	p := &proxy{dir: dir, followed: make(chan struct{})}
	file := filepath.Join(dir, "amqproxy.yaml")
	if err := os.WriteFile(file, []byte(config(rabbit, dir, join)), 0o600); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, binary, "run", "-c", file)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	// A demo that is killed leaves no proxy behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stderr, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	runs := make(chan struct{})
	go p.follow(bufio.NewScanner(stderr), runs) // joined by followed
	select {
	case <-runs:
		return p, nil
	case <-p.followed:
		return nil, fmt.Errorf("amqproxy did not start: %w", p.close())
	}
}

func config(rabbit *broker.Node, dir string, join []string) string {
	return fmt.Sprintf(`node: %s
listen: 127.0.0.1:0
broker: amqp://%s
state-dir: %s
admin: {listen: 127.0.0.1:0}
gossip: {listen: 127.0.0.1:0, join: [%s]}
parameters: {shards-per-node: %d}
policies:
  - {name: demo, pattern: '^shard\.'}
`, rabbit.Name(), rabbit.Addr(), dir, strings.Join(join, ", "), perNode)
}

// follow keeps the log and finds the line that says where the proxy listens.
func (p *proxy) follow(lines *bufio.Scanner, runs chan<- struct{}) {
	defer close(p.followed)
	for lines.Scan() {
		p.log.Write(append(lines.Bytes(), '\n'))
		var line struct{ Msg, Listen, Admin string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "amqproxy runs" {
			p.addr, p.admin = line.Listen, line.Admin
			close(runs)
		}
	}
}

// close stops the proxy in order. What it logged goes into the error, if that was not its wish.
func (p *proxy) close() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.followed
	err := p.cmd.Wait()
	os.RemoveAll(p.dir)
	if err != nil {
		return fmt.Errorf("amqproxy ended: %w\n%s", err, p.log.String())
	}
	return nil
}

// view reads one of the lists that the proxy's admin listener shows.
func view[T any](ctx context.Context, p *proxy, name string) (rows []T, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/api/v1/"+name, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return rows, json.NewDecoder(resp.Body).Decode(&rows)
}

// gossip is where other proxies reach this one.
func (p *proxy) gossip(ctx context.Context) (string, error) {
	type member struct {
		Gossip string
		Self   bool
	}
	members, err := view[member](ctx, p, "members")
	for _, m := range members {
		if m.Self {
			return fmt.Sprintf("%q", m.Gossip), nil
		}
	}
	return "", fmt.Errorf("the proxy does not list itself: %w", err)
}

// agree waits until the proxies send every key of the stream to the same queue, with so many queues
// in use, and tells how long that took.
func agree(ctx context.Context, shards int, proxies ...*proxy) (time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		same, err := sameTable(ctx, shards, proxies)
		if err != nil || same {
			return time.Since(began).Round(time.Millisecond), err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the proxies do not agree on %d shards: %w", shards, ctx.Err())
		}
	}
}

func sameTable(ctx context.Context, shards int, proxies []*proxy) (bool, error) {
	type table struct {
		Stream, Digest string
		Shards         int
	}
	digests := map[string]bool{}
	for _, p := range proxies {
		tables, err := view[table](ctx, p, "streams")
		if err != nil {
			return false, err
		}
		for _, t := range tables {
			if t.Stream != stream || t.Shards != shards {
				return false, nil
			}
			digests[t.Digest] = true
		}
	}
	return len(digests) == 1, nil
}
