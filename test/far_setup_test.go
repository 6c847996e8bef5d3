package test

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/internal/fakebroker"
	"amqproxy/shard"
	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// far is embedded brokers that know nothing of each other, with a proxy beside each, and
// one stream on all of them.
type far struct {
	t       *testing.T
	brokers []*fakebroker.Server
	proxies []*daemon.Proxy
	wires   []*wire // to each broker
	perNode int
}

const farStream = "shard.far"

// startFar starts three of each. definition is what the stream's says, more is other
// configuration.
func startFar(t *testing.T, perNode int, definition, more string) *far {
	t.Helper()
	return startFarWith(t, perNode, definition, more, func(int, *fakebroker.Server) {})
}

// startFarWith is startFar with brokers that are set up by set.
func startFarWith(t *testing.T, perNode int, definition, more string, set func(int, *fakebroker.Server)) *far {
	t.Helper()
	f := &far{t: t, perNode: perNode}
	var gossip []string
	for i := range 3 {
		w := &wire{}
		f.wires = append(f.wires, w)
		f.brokers = append(f.brokers, embeddedStart(t, func(s *fakebroker.Server) { s.Wrap = w.wrap; set(i, s) }))
		gossip = append(gossip, broker.Address(t))
	}
	for i, b := range f.brokers {
		f.proxies = append(f.proxies, daemon.New(t, fmt.Sprintf(`node: %s
broker: amqp://%s
gossip: {listen: "%s", join: ["%s"]}
definitions: {far: {shards-per-node: %d%s}}
policies: [{name: far, pattern: '^shard\.', stream-definition: far}]
%s`, farNode(i), b.Addr(), gossip[i], strings.Join(append(gossip[:i:i], gossip[i+1:]...), `", "`), perNode, definition, more)))
	}
	booted := make(chan error, len(f.proxies))
	for _, p := range f.proxies {
		go func() { booted <- p.TryBoot() }()
	}
	for range f.proxies {
		sessionMust(t, <-booted)
	}
	f.complete(0)
	sessionMust(t, f.channel(0).ExchangeDeclare(farStream, "x-consistent-hash", true, false, false, false, nil))
	f.complete(3 * perNode)
	return f
}

func farNode(i int) string { return fmt.Sprintf("far%d@test", i) }

// complete waits until all proxies know each other and so many shards.
func (f *far) complete(shards int) {
	f.t.Helper()
	daemon.Eventually(f.t, 10*time.Second, func() error {
		for i, p := range f.proxies {
			running := 0
			for _, m := range view[memberView](f.t, p, "members") {
				if m.Presence == "alive" && m.Condition == "running" {
					running++
				}
			}
			if running < len(f.proxies) {
				return fmt.Errorf("proxy %d knows %d that run", i, running)
			}
			if s := view[streamView](f.t, p, "streams"); shards > 0 && (len(s) != 1 || s[0].Shards != shards) {
				return fmt.Errorf("proxy %d: %v", i, s)
			}
		}
		return nil
	})
}

func (f *far) channel(i int) *amqp.Channel {
	f.t.Helper()
	return streamOpen(f.t, streamDial(f.t, f.proxies[i].URL("guest", "guest", "/")))
}

// keysOf are keys whose shards are on a node, as many as are asked for.
func (f *far) keysOf(node, count int) (keys []string) {
	var shards []shard.Shard
	for i := range f.brokers {
		for k := range f.perNode {
			shards = append(shards, shard.Shard{Queue: shard.QueueName(shard.DefaultPrefix, farStream, farNode(i), k), Node: farNode(i), Weight: 1})
		}
	}
	table := shard.NewTable("/", farStream, &shard.Settings{}, shard.Declared{}, shards, nil)
	for k := 0; len(keys) < count; k++ {
		key := fmt.Sprint("k", k)
		if table.Shards[table.Pick(shard.KeyHash([]byte(key)))].Node == farNode(node) {
			keys = append(keys, key)
		}
	}
	return keys
}

// stored takes all messages out of the shards, straight from the brokers: the bodies of
// each key, in their order.
func (f *far) stored() map[string][]string {
	f.t.Helper()
	all := map[string][]string{}
	for i := range f.brokers {
		for key, bodies := range f.storedAt(i) {
			all[key] = append(all[key], bodies...)
		}
	}
	return all
}

// storedAt is the same of one broker.
func (f *far) storedAt(i int) map[string][]string {
	f.t.Helper()
	all := map[string][]string{}
	ch := streamOpen(f.t, streamDial(f.t, "amqp://guest:guest@"+f.brokers[i].Addr()))
	for k := range f.perNode {
		queue := shard.QueueName(shard.DefaultPrefix, farStream, farNode(i), k)
		for {
			d, more, err := ch.Get(queue, true)
			sessionMust(f.t, err)
			if !more {
				break
			}
			all[d.RoutingKey] = append(all[d.RoutingKey], string(d.Body))
		}
	}
	return all
}

// wire is the way to a broker, for what a network does wrong.
type wire struct {
	cutAfter atomic.Int64 // so many octets more go to the broker on connections that are published on, if it is above 0
	reset    atomic.Bool  // the cut is a reset
	slow     atomic.Bool  // a few octets at a time
}

func (w *wire) wrap(c net.Conn) net.Conn { return &wiredConn{Conn: c, wire: w} }

// wiredConn is the broker's end.
type wiredConn struct {
	net.Conn
	wire *wire
	link bool // it is a publish link: its client says so
}

func (c *wiredConn) Read(p []byte) (int, error) {
	if c.link && c.wire.slow.Load() {
		p = p[:min(len(p), 7)]
	}
	left := c.wire.cutAfter.Load()
	if c.link && left > 0 {
		p = p[:min(int64(len(p)), left)]
	}
	n, err := c.Conn.Read(p)
	c.link = c.link || strings.Contains(string(p[:n]), "amqproxy for ")
	if c.link && left > 0 && c.wire.cutAfter.Add(int64(-n)) == 0 {
		if tcp, ok := c.Conn.(*net.TCPConn); ok && c.wire.reset.Load() {
			tcp.SetLinger(0)
		}
		c.Conn.Close()
	}
	return n, err
}
