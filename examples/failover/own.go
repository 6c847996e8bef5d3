package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"amqproxy/internal/fakebroker"
)

// own are three brokers in memory that know nothing of each other, with a proxy beside each.
type own struct {
	dir     string
	brokers []*fakebroker.Server
	serving sync.WaitGroup
	proxies []*proxy
}

// startOwn starts them. What it gives is to be closed, whether it failed or not.
func startOwn(ctx context.Context, binary string) (o *own, err error) {
	o = &own{}
	if o.dir, err = os.MkdirTemp("", "amqproxy-failover-"); err != nil {
		return o, err
	}
	for i := range 3 {
		b, err := fakebroker.Listen("127.0.0.1:0")
		if err != nil {
			return o, err
		}
		o.brokers = append(o.brokers, b)
		o.serving.Go(func() { b.Serve() }) // it ends with Close, and gives nil then
		p := &proxy{binary: binary, node: fmt.Sprintf("node%d", i+1), broker: b.Addr()}
		p.dir = filepath.Join(o.dir, p.node)
		for _, addr := range []*string{&p.addr, &p.admin, &p.gossip} {
			if *addr, err = freeAddress(); err != nil {
				return o, err
			}
		}
		o.proxies = append(o.proxies, p)
	}
	return o, o.boot(ctx)
}

// boot boots the proxies side by side, since one that finds nobody looks for others for
// seconds.
func (o *own) boot(ctx context.Context) error {
	failed := make([]error, len(o.proxies))
	var booting sync.WaitGroup
	for i, p := range o.proxies {
		booting.Go(func() {
			if failed[i] = p.configure(o.proxies); failed[i] == nil {
				failed[i] = p.boot(ctx)
			}
		})
	}
	booting.Wait()
	return errors.Join(failed...)
}

func (o *own) urls() (all []string) {
	for _, p := range o.proxies {
		all = append(all, "amqp://guest:guest@"+p.addr+"/")
	}
	return all
}

func (o *own) close() error {
	for _, p := range o.proxies {
		p.kill()
	}
	for _, b := range o.brokers {
		b.Close()
	}
	o.serving.Wait()
	return os.RemoveAll(o.dir)
}

// freeAddress is one on loopback at which nobody listens now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// proxy is one amqproxy. It keeps its addresses over its restarts.
type proxy struct {
	binary, node, broker, dir string
	addr, admin, gossip       string
	cmd                       *exec.Cmd
}

func (p *proxy) configure(all []*proxy) error {
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
definitions:
  orders: {shards-per-node: 2, consumers: ordered}
policies:
  - {name: orders, pattern: '^orders\.', stream-definition: orders}
`, p.node, p.addr, p.broker, p.dir, p.admin, p.gossip, strings.Join(join, ", "))
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(p.file(), []byte(text), 0o600)
}

func (p *proxy) file() string { return filepath.Join(p.dir, "amqproxy.yaml") }

// boot runs the binary, and returns when it takes clients.
func (p *proxy) boot(ctx context.Context) error {
	p.cmd = exec.CommandContext(ctx, p.binary, "run", "-c", p.file())
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	runs, log := make(chan bool, 1), new(bytes.Buffer)
	go func() { // ends with the process
		defer close(runs)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			var line struct{ Msg string }
			if log.Write(append(lines.Bytes(), '\n')); json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "amqproxy runs" {
				runs <- true
			}
		}
	}()
	if !<-runs {
		return fmt.Errorf("%s does not run: %s", p.binary, log)
	}
	return nil
}

// kill ends it with SIGKILL.
func (p *proxy) kill() {
	if p.cmd != nil && p.cmd.Process != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait() // the error is that it was killed, once or twice
	}
}
