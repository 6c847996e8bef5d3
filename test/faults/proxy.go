package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"amqproxy/test/broker"
)

// bootTime is how long a proxy may take until it serves, with the race detector and
// beside brokers that boot.
const bootTime = 30 * time.Second

// proxy is one amqproxy, running or not. It keeps its addresses over its restarts.
type proxy struct {
	binary, dir         string
	definition          string // its options
	addr, admin, gossip string
	release             []func()
	cmd                 *exec.Cmd
	done                chan struct{} // closed when the process has ended
}

// newProxy reserves what a proxy needs; the configuration is written by configure.
func newProxy(binary, definition string) (p *proxy, err error) {
	p = &proxy{binary: binary, definition: definition}
	if p.dir, err = os.MkdirTemp("", "amqproxy-faults-"); err != nil {
		return nil, err
	}
	for _, addr := range []*string{&p.addr, &p.admin, &p.gossip} {
		reserved, release, err := broker.ReserveAddress()
		if err != nil {
			return p, err
		}
		*addr, p.release = reserved, append(p.release, release)
	}
	return p, nil
}

func (p *proxy) configure(beside *broker.Node, all []*proxy) error {
	var join []string
	for _, other := range all {
		if other != p {
			join = append(join, fmt.Sprintf("%q", other.gossip))
		}
	}
	text := fmt.Sprintf(`node: %s
listen: %s
broker: amqp://%s
state-dir: %s
admin: {listen: "%s"}
gossip: {listen: "%s", join: [%s]}
parameters: {shards-per-node: %d}
definitions: {faults: {%s}}
policies:
  - {name: faults, pattern: '^shard\.', stream-definition: faults}
`, beside.Name(), p.addr, beside.Addr(), p.dir, p.admin, p.gossip, strings.Join(join, ", "), perNode, p.definition)
	return os.WriteFile(p.file("amqproxy.yaml"), []byte(text), 0o600)
}

func (p *proxy) file(name string) string { return filepath.Join(p.dir, name) }

// boot starts the process (again) and waits until it accepts clients.
func (p *proxy) boot(ctx context.Context) error {
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.binary, "run", "-c", p.file("amqproxy.yaml"))
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.done = done
	go func(cmd *exec.Cmd) { // joined by done
		defer close(done)
		cmd.Wait()
	}(p.cmd)
	return p.await(ctx)
}

func (p *proxy) await(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with either
		select {
		case <-p.done:
			cancel(errors.New("it ended"))
		case <-ctx.Done():
		}
	}()
	err := eventually(ctx, bootTime, func() error {
		conn, _, err := open(ctx, "amqp://guest:guest@"+p.addr+"/")
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return fmt.Errorf("amqproxy does not accept clients: %w\n%s", err, p.log())
	}
	return nil
}

func (p *proxy) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return p.done != nil
	}
}

// kill ends the process with SIGKILL, if it lives, and returns when it is gone.
func (p *proxy) kill() {
	if p.done != nil {
		p.cmd.Process.Kill() // the error of a process that has ended is none here
		<-p.done
	}
}

// log is the end of what the proxy has logged.
func (p *proxy) log() string {
	text, _ := os.ReadFile(p.file("log"))
	return string(text[max(0, len(text)-8000):])
}

// close kills the proxy and gives up what it holds. A race or a panic is an error.
func (p *proxy) close() (err error) {
	p.kill()
	for _, release := range p.release {
		release()
	}
	text, _ := os.ReadFile(p.file("log"))
	for _, bad := range []string{"DATA RACE", "panic:"} {
		if i := strings.Index(string(text), bad); i >= 0 {
			err = fmt.Errorf("a proxy's log has a %s:\n%s", bad, text[i:min(len(text), i+8000)])
		}
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}
