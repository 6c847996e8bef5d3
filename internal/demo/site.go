package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.uber.org/zap"

	"amqproxy/internal/config"
	"amqproxy/internal/daemon"
	"amqproxy/internal/fakebroker"
	"amqproxy/shard"
)

const (
	stream        = "shard.orders"
	prefix        = "stream: " // of the shards' names
	shardsPerNode = 2
)

func isShard(queue string) bool { return strings.HasPrefix(queue, prefix+stream+" - ") }

// nodeNames are the nodes, in the order of the site.
var nodeNames = [...]string{"a", "b", "c"}

// proxyConfig is what each proxy runs with: what anybody would write.
const proxyConfig = `
node: %s
listen: 127.0.0.1:0
broker: amqp://%s
state-dir: %s
gossip: {listen: 127.0.0.1:0, join: [%s]}
admin: {listen: 127.0.0.1:0}
definitions:
  orders: {shards-per-node: %d, consumers: ordered}
policies:
  - {name: orders, pattern: '^shard\.', vhost: "*", stream-definition: orders}
limits: {stall-timeout: 10s} # nothing hangs here but the machine itself
`

// site is three brokers that know nothing of each other, with a proxy beside each.
type site struct {
	nodes   []*node
	dir     string
	running sync.WaitGroup
}

// node is a broker with its proxy.
type node struct {
	name    string
	broker  *fakebroker.Server
	cfg     *config.Config
	version string
	log     *zap.Logger

	mu       sync.Mutex
	brokerUp bool
	proxyUp  bool
	proxy    *daemon.Daemon // the last that was started; nil before
	ended    chan struct{}  // closed when that one has ended, for the reason failed
	failed   error
}

// startSite starts all. What has been started must be closed, whatever the error. The brokers
// tell taken who takes messages; see fakebroker.
func startSite(ctx context.Context, version string, log *zap.Logger, taken func(queue, tag string)) (s *site, err error) {
	s = &site{}
	if s.dir, err = os.MkdirTemp("", "amqproxy-demo-"); err != nil {
		return s, err
	}
	var join []string
	for _, name := range nodeNames {
		broker, err := fakebroker.Listen("127.0.0.1:0")
		if err != nil {
			return s, err
		}
		broker.Taken = taken
		n := &node{name: name, broker: broker, brokerUp: true, version: version, log: log.Named(name)}
		s.nodes = append(s.nodes, n)
		s.running.Go(func() { broker.Serve() }) // its error would say that it can't accept, which all hear
		text := fmt.Sprintf(proxyConfig, name, broker.Addr(), filepath.Join(s.dir, name), strings.Join(join, ", "), shardsPerNode)
		if n.cfg, err = config.Parse("demo", []byte(text)); err != nil {
			return s, err
		}
		if err := s.startProxy(ctx, n); err != nil {
			return s, err
		}
		join = append(join, fmt.Sprintf("%q", n.cfg.Gossip.Listen))
	}
	return s, nil
}

// startProxy starts a node's proxy, and returns when it accepts clients. From the first
// start on it keeps its addresses.
func (s *site) startProxy(ctx context.Context, n *node) error {
	d, err := daemon.New(n.cfg, n.version, n.log)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	n.mu.Lock()
	n.proxy, n.ended = d, ended
	n.mu.Unlock()
	s.running.Go(func() {
		defer close(ended)
		n.failed = d.Run(context.Background()) // until it is killed
	})
	select {
	case <-d.Running():
	case <-ended:
		return fmt.Errorf("proxy %s ended: %w", n.name, n.failed)
	case <-ctx.Done():
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.proxyUp = true
	n.cfg.Listen, n.cfg.Admin.Listen, n.cfg.Gossip.Listen = d.Addr(), d.Admin(), d.Gossip()
	return nil
}

// killProxy ends a proxy without a farewell; see daemon.Kill.
func (n *node) killProxy() {
	n.mu.Lock()
	d, ended := n.proxy, n.ended
	n.proxyUp = false
	n.mu.Unlock()
	if d != nil {
		d.Kill()
		<-ended
	}
}

// killBroker closes all its sockets at once. As a broker with a disk it keeps what is in
// its durable queues, here in memory; see fakebroker.Kill.
func (n *node) killBroker() {
	n.setBroker(false)
	n.broker.Kill()
}

func (n *node) startBroker() error {
	err := n.broker.Restart()
	n.setBroker(err == nil)
	return err
}

func (n *node) setBroker(up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.brokerUp = up
}

func (n *node) hasBroker() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.brokerUp
}

func (n *node) hasProxy() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proxyUp
}

// alive counts the brokers and proxies that run.
func (s *site) alive() (brokers, proxies int) {
	for _, n := range s.nodes {
		if n.hasBroker() {
			brokers++
		}
		if n.hasProxy() {
			proxies++
		}
	}
	return brokers, proxies
}

// addr is where clients connect, and admin where the proxy's status is.
func (n *node) addr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg.Listen
}

func (n *node) admin() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg.Admin.Listen
}

// table is what the node's proxy routes by; nil while it is dead.
func (n *node) table() *shard.Table {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.proxyUp {
		return nil
	}
	return n.proxy.Node().Snapshot().Tables()[shard.Name{VHost: "/", Stream: stream}]
}

// presence is what the node's proxy thinks of another's; "" if it is dead itself.
func (n *node) presence(other string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.proxyUp {
		return ""
	}
	for _, m := range n.proxy.Node().Members() {
		if m.Node == other {
			return m.Presence
		}
	}
	return ""
}

// close ends all at once, and waits for it.
func (s *site) close() error {
	for _, n := range s.nodes {
		n.killProxy()
		n.broker.Close()
	}
	s.running.Wait()
	return os.RemoveAll(s.dir)
}

// agreed is the table of all proxies that run; an error if they differ, or if the shards
// in it are not those of the brokers that run. Those of a node whose proxy is dead may be in
// use or not: that depends on what it has said last.
func (s *site) agreed() (table *shard.Table, err error) {
	for _, n := range s.nodes {
		if !n.hasProxy() {
			continue
		}
		t := n.table()
		switch {
		case t == nil:
			return nil, fmt.Errorf("proxy %s does not know the stream", n.name)
		case table != nil && t.Digest() != table.Digest():
			return nil, errors.New("the proxies send keys to different shards")
		}
		table = t
	}
	for _, n := range s.nodes {
		used := 0
		for _, sh := range table.Shards {
			if sh.Node == n.name {
				used++
			}
		}
		switch {
		case used > 0 && !n.hasBroker(), used < shardsPerNode && n.hasBroker() && n.hasProxy():
			return nil, fmt.Errorf("%d shards of node %s are in use", used, n.name)
		}
	}
	return table, nil
}

// gaveUp tells whether all proxies that run have given up a node's proxy.
func (s *site) gaveUp(name string) error {
	for _, n := range s.nodes {
		if n.presence(name) == "alive" {
			return fmt.Errorf("proxy %s takes it for alive", n.name)
		}
	}
	return nil
}

// placement is the shard of each key.
type placement map[string]shard.Shard

func place(t *shard.Table, keys []string) placement {
	p := placement{}
	for _, key := range keys {
		p[key] = t.Shards[t.Pick(shard.KeyHash([]byte(key)))]
	}
	return p
}
