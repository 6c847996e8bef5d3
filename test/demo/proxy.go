package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"amqproxy/test/broker"
)

// proxy is the amqproxy of the demo.
type proxy struct {
	cmd  *exec.Cmd
	dir  string
	addr string
}

func startProxy(ctx context.Context, binary string, rabbit *broker.Node) (*proxy, error) {
	dir, err := os.MkdirTemp("", "amqproxy-demo-")
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`node: %s
listen: 127.0.0.1:0
broker: amqp://%s
state-dir: %s
admin: {listen: 127.0.0.1:0}
parameters: {shards-per-node: %d}
policies:
  - {name: demo, pattern: '^shard\.'}
`, rabbit.Name(), rabbit.Addr(), dir, shards)
	file := filepath.Join(dir, "amqproxy.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p := &proxy{cmd: exec.CommandContext(ctx, binary, "run", "-c", file), dir: dir}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var line struct{ Msg, Listen string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "amqproxy runs" {
			p.addr = line.Listen
			return p, nil
		}
		fmt.Fprintln(os.Stderr, lines.Text())
	}
	return nil, fmt.Errorf("amqproxy did not start: %w", p.cmd.Wait())
}

func (p *proxy) close() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	err := p.cmd.Wait()
	os.RemoveAll(p.dir)
	return err
}
