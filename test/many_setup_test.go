package test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// many is three brokers in one cluster with a proxy beside each.
type many struct {
	t       *testing.T
	brokers []*broker.Node
	proxies []*daemon.Proxy
	gossip  []string
	vhost   string
	extra   string // more configuration for all
	apart   bool   // the brokers are in no cluster
}

// inCluster and apart are three brokers for all tests of this kind: each takes a vhost of
// its own, and leaves all brokers running. Those apart know nothing of each other.
var (
	inCluster = &threeBrokers{start: broker.StartCluster}
	apart     = &threeBrokers{start: broker.StartApart}
)

type threeBrokers struct {
	start func(ctx context.Context, count int, o broker.Options) ([]*broker.Node, error)
	once  sync.Once
	nodes []*broker.Node
	err   error
}

// both runs a test with brokers in a cluster, and side by side with brokers that are in
// none. Nothing else runs meanwhile: it may stop brokers, and say how fast something is.
func both(t *testing.T, test func(*testing.T, *threeBrokers)) {
	for name, on := range map[string]*threeBrokers{"cluster": inCluster, "apart": apart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

// bothBeside is both for a test that leaves the brokers alone and is in no hurry: other
// tests run beside it.
func bothBeside(t *testing.T, test func(*testing.T, *threeBrokers)) {
	t.Parallel()
	both(t, test)
}

func (l *threeBrokers) get() ([]*broker.Node, error) {
	l.once.Do(func() { l.nodes, l.err = l.start(context.Background(), 3, broker.Options{}) })
	return l.nodes, l.err
}

// close ends the brokers, if any were started.
func (l *threeBrokers) close() {
	for _, n := range l.nodes {
		n.Close()
	}
}

// startMany starts the proxies, with perNode shards on each node.
func startMany(t *testing.T, on *threeBrokers, perNode int, extra string) *many {
	t.Helper()
	m := newMany(t, on, perNode, extra)
	m.boot(0, 1, 2)
	return m
}

// newMany is startMany without the start.
func newMany(t *testing.T, on *threeBrokers, perNode int, extra string) *many {
	t.Helper()
	nodes, err := on.get()
	if err != nil {
		t.Fatal(err)
	}
	m := &many{t: t, brokers: nodes, vhost: nodes[0].VHost(t), extra: extra, apart: on == apart}
	for _, n := range nodes[1:] { // in a cluster it is there already
		n.AddVHost(t, m.vhost)
	}
	for range nodes {
		m.gossip = append(m.gossip, broker.Address(t))
	}
	for i := range nodes {
		m.proxies = append(m.proxies, daemon.New(t, m.config(i, perNode)))
	}
	return m
}

// boot starts proxies side by side, since one that finds nobody looks for others
// for seconds, and waits until they all know that the others run.
func (m *many) boot(which ...int) {
	m.t.Helper()
	failed := make(chan error, len(which))
	for _, i := range which {
		go func() { failed <- m.proxies[i].TryBoot() }()
	}
	for range which {
		if err := <-failed; err != nil {
			m.t.Fatal(err)
		}
	}
	daemon.Eventually(m.t, 20*time.Second, func() error {
		for _, i := range which {
			running := 0
			for _, member := range view[memberView](m.t, m.proxies[i], "members") {
				if member.Presence == "alive" && member.Condition == "running" {
					running++
				}
			}
			if running < len(which) {
				return fmt.Errorf("proxy %d knows %d of %d running proxies", i, running, len(which))
			}
		}
		return nil
	})
}

// alive are the nodes that proxy i says are alive.
func (m *many) alive(i int) (nodes []string) {
	m.t.Helper()
	for _, member := range view[memberView](m.t, m.proxies[i], "members") {
		if member.Presence == "alive" {
			nodes = append(nodes, member.Node)
		}
	}
	return nodes
}

func (m *many) config(i, perNode int) string {
	var others []string
	for j, g := range m.gossip {
		if j != i {
			others = append(others, fmt.Sprintf("%q", g))
		}
	}
	return fmt.Sprintf(`node: %s
broker: amqp://%s
gossip: {listen: "%s", join: [%s], label: %s}
definitions:
  many: {shards-per-node: %d}
policies:
  - {name: many, pattern: '^shard\.', vhost: %q, stream-definition: many}
%s`, m.brokers[i].Name(), m.brokers[i].Addr(), m.gossip[i], strings.Join(others, ", "), m.vhost, perNode, m.vhost, m.extra)
}

// channel opens a channel through proxy i.
func (m *many) channel(i int) *amqp.Channel {
	m.t.Helper()
	conn, err := amqp.DialConfig(m.proxies[i].URL("guest", "guest", m.vhost), amqp.Config{Dial: m.proxies[i].Dial})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		m.t.Fatal(err)
	}
	return ch
}

// channels opens channels through the proxies in turn.
func (m *many) channels(count int) (all []*amqp.Channel) {
	m.t.Helper()
	for i := range count {
		all = append(all, m.channel(i%len(m.proxies)))
	}
	return all
}

// declare declares a stream through proxy i.
func (m *many) declare(i int, stream string) {
	m.t.Helper()
	if err := m.channel(i).ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil); err != nil {
		m.t.Fatal(err)
	}
}

// These are the parts of the admin views that tests look at.
type memberView struct {
	Node, Gossip, Broker, Presence, Condition string
}

type streamView struct {
	Stream, State, Digest, Type string
	Shards                      int
}

type shardView struct {
	Stream, Queue, Node string
	Weight              int
	Ready               bool
}

func view[T any](t *testing.T, p *daemon.Proxy, name string) []T {
	t.Helper()
	status, body := p.Get("/api/v1/" + name)
	if status != 200 {
		t.Fatalf("%s: status %d", name, status)
	}
	var rows []T
	if err := json.Unmarshal([]byte(body), &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// agree waits until the proxies have the same table of a stream with so many
// shards.
func (m *many) agree(stream string, shards int, within time.Duration, proxies ...*daemon.Proxy) {
	m.t.Helper()
	daemon.Eventually(m.t, within, func() error {
		digest := ""
		for i, p := range proxies {
			var found *streamView
			for _, s := range view[streamView](m.t, p, "streams") {
				if s.Stream == stream {
					found = &s
				}
			}
			switch {
			case found == nil && shards == 0:
				continue
			case found == nil:
				return fmt.Errorf("proxy %d does not know the stream", i)
			case found.Shards != shards:
				return fmt.Errorf("proxy %d has %d shards of %d", i, found.Shards, shards)
			case digest != "" && digest != found.Digest:
				return fmt.Errorf("the tables differ")
			}
			digest = found.Digest
		}
		return nil
	})
}

// publish sends one message a key through proxy i and waits for the confirms.
func (m *many) publish(i int, stream string, keys int, body string) {
	m.t.Helper()
	ch := m.channel(i)
	defer ch.Close()
	if err := ch.Confirm(false); err != nil {
		m.t.Fatal(err)
	}
	returns := ch.NotifyReturn(make(chan amqp.Return, keys))
	var confirms []*amqp.DeferredConfirmation
	for k := range keys {
		c, err := ch.PublishWithDeferredConfirm(stream, key(k), true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
		if err != nil {
			m.t.Fatal(err)
		}
		confirms = append(confirms, c)
	}
	for _, c := range confirms {
		if !c.Wait() {
			m.t.Fatal("a publish was nacked")
		}
	}
	if len(returns) > 0 {
		m.t.Fatalf("%d publishes were returned", len(returns))
	}
}

func key(k int) string { return fmt.Sprintf("key-%d", k) }

// where empties all shards of a stream, straight from the brokers, and tells which
// queue each key was in; a key in two queues is a failure.
func (m *many) where(stream string, onlyBrokers ...int) map[string]string {
	m.t.Helper()
	if onlyBrokers == nil {
		onlyBrokers = []int{0, 1, 2}
	}
	found := map[string]string{}
	for _, s := range view[shardView](m.t, m.proxies[onlyBrokers[0]], "shards") {
		if s.Stream != stream {
			continue
		}
		for k := range m.drain(m.serving(s.Node, onlyBrokers[0]), s.Queue) {
			if before, twice := found[k]; twice {
				m.t.Errorf("%s is in %s and in %s", k, before, s.Queue)
			}
			found[k] = s.Queue
		}
	}
	return found
}

// serving is the broker where the shards of a node can be read: in a cluster any.
func (m *many) serving(node string, any int) *broker.Node {
	if i := slices.IndexFunc(m.brokers, func(n *broker.Node) bool { return n.Name() == node }); m.apart && i >= 0 {
		return m.brokers[i]
	}
	return m.brokers[any]
}

// drain empties one queue past the proxy and tells which keys it held; a queue
// that is down holds none.
func (m *many) drain(from *broker.Node, queue string) map[string]bool {
	m.t.Helper()
	conn, err := amqp.Dial(from.URL(m.vhost))
	if err != nil {
		if m.apart {
			return nil
		}
		m.t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		m.t.Fatal(err)
	}
	keys := map[string]bool{}
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil || !ok {
			return keys
		}
		keys[d.RoutingKey] = true
	}
}
