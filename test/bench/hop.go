package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// hop is a proxy before a target, or the target itself.
type hop struct {
	addr string
	proc *process
}

func (s *setup) startHop(kind, target string) (hop, error) {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return hop{}, err
	}
	if kind == haproxy {
		return s.startHAProxy(dir, target)
	}
	return s.startAmqproxy(dir, target)
}

// startHAProxy gives HAProxy a socket that listens already: so it needs no fixed
// port, and nobody has to wait for it.
func (s *setup) startHAProxy(dir, target string) (hop, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return hop{}, err
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		return hop{}, err
	}
	defer socket.Close()
	threads := ""
	if s.threads > 0 {
		threads = fmt.Sprintf("\n  nbthread %d", s.threads)
	}
	config := fmt.Sprintf(`global
  maxconn %d%s
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend amqp
  bind fd@3
  default_backend broker
backend broker
  server broker %s
`, idleConnections(20_000), threads, target)
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return hop{}, err
	}
	cmd := exec.Command(s.haproxy, "-db", "-f", file)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{socket}
	p, err := startProcess(cmd)
	return hop{ln.Addr().String(), p}, err
}

// startAmqproxy runs amqproxy with what any installation has.
func (s *setup) startAmqproxy(dir, target string) (hop, error) {
	l, err := s.launch(dir, nodeName, target, shards, "local", "")
	if err != nil {
		return hop{}, err
	}
	said, err := l.proc.listens(l.log)
	if err != nil {
		l.proc.stop()
	}
	return hop{said.Listen, l.proc}, err
}

// launched is an amqproxy that was started and may not take clients yet.
type launched struct {
	proc *process
	log  string // the file where it says where it listens
}

// launch starts amqproxy as a node with so many shards; more is further configuration.
func (s *setup) launch(dir, node, target string, perNode int, consumers, more string) (launched, error) {
	config := fmt.Sprintf(`node: %s
listen: 127.0.0.1:0
broker: amqp://%s
state-dir: %s
admin: {listen: 127.0.0.1:0}
definitions:
  bench: {shards-per-node: %d, consumers: %s, queue-arguments: {%s}}
policies:
  - {name: bench, pattern: '^shard\.', stream-definition: bench}
limits: {declare-timeout: 1m} # a flood on one processor leaves little for errands
%s`, node, target, dir, perNode, consumers, strings.NewReplacer("=", ": ", " ", ", ").Replace(queueLimits), more)
	file := filepath.Join(dir, "amqproxy.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return launched{}, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return launched{}, err
	}
	defer log.Close()
	cmd := exec.Command(s.binary, "run", "-c", file)
	cmd.Stderr = log
	if s.threads > 0 {
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(s.threads))
	}
	p, err := startProcess(cmd)
	return launched{p, log.Name()}, err
}
