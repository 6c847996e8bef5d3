package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"amqproxy/test/broker"
)

// shards is over how many shards the stream is hashed.
const shards = 6

// The names on the broker. What a shard is called is the proxy's doing.
const (
	nodeName    = "bench"
	streamName  = "shard.bench"
	passName    = "bench.direct"
	queueLimits = "x-max-length=20000 x-max-length-bytes=20000000"
)

// path is one way to a target.
type path struct {
	kind, target string
	addr         string
	proc         *process // nil where there is no proxy
	exchange     string
	queues       []string // where what is published to exchange can be consumed
	keys         int      // of how many routing keys one must be used

	// went tells whether what so many connections have published went by this path, and
	// comes whether what they are delivered comes by it; nil where there is no other way.
	went, comes func(connections int) error
}

// setup is everything that was started.
type setup struct {
	dir      string
	binary   string // amqproxy
	threads  int    // of each proxy; 0 is what it does by itself
	haproxy  string // "" if it is missing
	versions map[string]string

	paths   map[[2]string]path // by target and kind
	targets map[string]string  // addresses
	procs   []*process
	release []func() // addresses that are reserved
	node    *broker.Node
}

// start starts the targets that the scenarios need, and the proxies before them.
func start(ctx context.Context, binary string, threads int, chosen []scenario, say func(string, ...any)) (_ *setup, err error) {
	s := &setup{binary: binary, threads: threads, versions: map[string]string{}, paths: map[[2]string]path{}, targets: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "amqproxy-bench-"); err != nil {
		return s, err
	}
	if s.haproxy = findHAProxy(); s.haproxy == "" {
		say("haproxy is not installed: there is nothing to compare with")
	}
	s.readVersions()
	needs := func(need func(scenario) bool) bool { return slices.ContainsFunc(chosen, need) }
	if needs(func(c scenario) bool { return c.target == sink }) {
		if s.targets[sink], err = s.startSink(); err != nil {
			return s, err
		}
	}
	if needs(func(c scenario) bool { return c.target == rabbit }) {
		say("starting RabbitMQ (some seconds)")
		if s.node, err = broker.Start(ctx, broker.Options{}); err != nil {
			return s, err
		}
		s.targets[rabbit] = s.node.Addr()
	}
	for target, addr := range s.targets {
		if err := s.startPaths(target, addr); err != nil {
			return s, fmt.Errorf("before %s: %w", target, err)
		}
	}
	if needs(func(c scenario) bool { return slices.Contains(c.paths, links) }) {
		if err := s.startLinks(); err != nil {
			return s, fmt.Errorf("a stream over several nodes: %w", err)
		}
	}
	return s, nil
}

// findHAProxy gives the path of HAProxy, or "". Debian has it where only root
// looks.
func findHAProxy() string {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func (s *setup) readVersions() {
	s.versions["amqproxy"] = firstLine(exec.Command(s.binary, "version"))
	if s.haproxy != "" {
		s.versions["haproxy"] = firstLine(exec.Command(s.haproxy, "-v"))
	}
}

func firstLine(cmd *exec.Cmd) string {
	out, err := cmd.Output()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// close ends everything.
func (s *setup) close() error {
	for _, p := range s.procs {
		p.stop()
	}
	for _, release := range s.release {
		release()
	}
	var err error
	if s.node != nil {
		err = s.node.Close()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *setup) path(target, kind string) (path, bool) {
	p, there := s.paths[[2]string{target, kind}]
	return p, there
}

// startSink runs this program as a sink, and tells where.
func (s *setup) startSink() (addr string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(self, "sink")
	cmd.Stderr = os.Stderr
	out, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd.Stdout = w
	p, err := startProcess(cmd)
	w.Close()
	if err != nil {
		return "", err
	}
	s.procs = append(s.procs, p)
	if addr, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		return "", fmt.Errorf("the sink did not say where it is: %w", err)
	}
	return strings.TrimSpace(addr), nil
}

// startPaths starts the proxies before a target and declares what is used on it.
func (s *setup) startPaths(target, addr string) error {
	pass := path{target: target, exchange: passName, keys: shards}
	for i := range shards {
		pass.queues = append(pass.queues, fmt.Sprintf("bench.q%d", i))
	}
	hops := map[string]hop{direct: {addr: addr}}
	for _, kind := range bothProxies {
		if kind == haproxy && s.haproxy == "" {
			continue
		}
		h, err := s.startHop(kind, addr)
		if err != nil {
			return err
		}
		s.procs = append(s.procs, h.proc)
		hops[kind] = h
	}
	for kind, h := range hops {
		p := pass
		p.kind, p.addr, p.proc = kind, h.addr, h.proc
		s.paths[[2]string{target, kind}] = p
	}
	v := path{kind: stream, target: target, addr: hops[amqproxy].addr, proc: hops[amqproxy].proc, exchange: streamName, keys: bufferMessages}
	for range shards {
		v.queues = append(v.queues, streamName)
	}
	s.paths[[2]string{target, stream}] = v
	return s.declare(addr, v.addr, pass.queues)
}

// fresh starts a proxy of the same kind and target as p's that has served nobody.
func (b *bench) fresh(p path) (path, func(), error) {
	s := b.setup
	kind := p.kind
	if kind == stream {
		kind = amqproxy
	}
	h, err := s.startHop(kind, s.targets[p.target])
	if err != nil {
		return p, nil, err
	}
	p.addr, p.proc = h.addr, h.proc
	return p, h.proc.stop, nil
}
