package test

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// groupPatience bounds every wait for a group to be as it should.
const groupPatience = 30 * time.Second

// groupModes are the kinds of groups. A stream whose name begins with one and a dot is of
// that kind.
var groupModes = []string{"balanced", "ordered"}

// groups is many with streams whose consumers form groups.
type groups struct {
	*many
	perNode int
	direct  [3]*amqp.Channel // past the proxies
}

// startGroups starts the proxies. definition is more options of both modes, limits are those
// of the configuration.
func startGroups(t *testing.T, on *threeBrokers, perNode int, definition, limits string) *groups {
	t.Helper()
	g := newGroups(t, on, perNode, definition, limits)
	g.boot(0, 1, 2)
	return g
}

// newGroups is startGroups without the start.
func newGroups(t *testing.T, on *threeBrokers, perNode int, definition, limits string) *groups {
	t.Helper()
	more := ""
	if limits != "" {
		more = "limits: {" + limits + "}"
	}
	if definition != "" {
		definition = ", " + definition
	}
	g := &groups{many: newMany(t, on, perNode, more), perNode: perNode}
	t.Cleanup(func() {
		for i, p := range g.proxies {
			if strings.Contains(p.Log(), "INTERNAL_ERROR") {
				t.Errorf("something that proxy %d did has crashed a channel of a broker", i)
			}
		}
	})
	for _, p := range g.proxies {
		for _, mode := range groupModes {
			p.Replace("definitions:\n", fmt.Sprintf("definitions:\n  %s: {shards-per-node: %d, consumers: %[1]s%[3]s}\n", mode, perNode, definition))
			p.Replace("policies:\n", fmt.Sprintf("policies:\n  - {name: %s, pattern: '^%[1]s\\.', vhost: %q, stream-definition: %[1]s}\n", mode, g.vhost))
		}
	}
	return g
}

// all are the queues of a stream while all nodes are there.
func (g *groups) all(stream string) []shard.Shard { return g.plain(stream, g.perNode, 0, 1, 2) }

// make declares a stream of a mode and waits until all proxies have its shards.
func (g *groups) make(mode, name string) (stream string) {
	g.t.Helper()
	stream = mode + "." + name
	g.declare(0, stream)
	g.agree(stream, 3*g.perNode, groupPatience, g.proxies...)
	return stream
}

// dial connects through proxy i, and gives the socket, too.
func (g *groups) dial(i int) (conn *amqp.Connection, socket *net.TCPConn) {
	g.t.Helper()
	conn, err := amqp.DialConfig(g.proxies[i].URL("guest", "guest", g.vhost), amqp.Config{Dial: func(network, addr string) (net.Conn, error) {
		c, err := amqp.DefaultDial(streamPatience)(network, addr)
		socket, _ = c.(*net.TCPConn)
		return c, err
	}})
	if err != nil {
		g.t.Fatalf("connect to proxy %d: %v", i, err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn, socket
}

// groupView is what the admin listener says of a group.
type groupView struct {
	VHost, Stream, Mode string
	Shards              []groupShard
	Standby             []groupMember
}

type groupShard struct {
	Queue, Node, Consumer, Proxy, Client, State string
	Ready, Unacked                              int
}

type groupMember struct{ Consumer, Proxy, Client string }

// seen is the group of a stream as proxy i shows it.
func (g *groups) seen(i int, stream string) (found groupView, err error) {
	g.t.Helper()
	for _, v := range view[groupView](g.t, g.proxies[i], "groups") {
		if v.VHost == g.vhost && v.Stream == stream {
			return v, nil
		}
	}
	return found, fmt.Errorf("proxy %d shows no group of %s", i, stream)
}

// owners are the consumers of each shard, by tags, if every one is active.
func (v groupView) owners() (owners map[string][]string, err error) {
	owners = map[string][]string{}
	for _, s := range v.Shards {
		if s.State != "active" {
			return nil, fmt.Errorf("%s is %q at %q", s.Queue, s.State, s.Consumer)
		}
		owners[s.Queue] = append(owners[s.Queue], s.Consumer)
	}
	for _, tags := range owners {
		slices.Sort(tags)
	}
	return owners, nil
}

// loads are how many shards each consumer reads, most first; those that stand by read none.
func (v groupView) loads() []int {
	of := map[groupMember]int{}
	for _, s := range v.Shards {
		of[groupMember{s.Consumer, s.Proxy, s.Client}]++
	}
	for _, m := range v.Standby {
		of[m] += 0
	}
	var loads []int
	for _, n := range of {
		loads = append(loads, n)
	}
	slices.SortFunc(loads, func(a, b int) int { return cmp.Compare(b, a) })
	return loads
}

// shared waits until the consumers have these loads, as each of the proxies shows it, and
// gives who reads which shard. The brokers have to have just these consumers.
func (g *groups) shared(stream string, via []int, loads ...int) (owners map[string][]string) {
	g.t.Helper()
	daemon.Eventually(g.t, groupPatience, func() error {
		owners = nil
		for _, i := range via {
			v, err := g.seen(i, stream)
			if err != nil {
				return err
			}
			has, err := v.owners()
			if err != nil {
				return fmt.Errorf("proxy %d: %w", i, err)
			}
			if got := v.loads(); !slices.Equal(got, loads) {
				return fmt.Errorf("proxy %d shows loads %v, want %v", i, got, loads)
			}
			if owners != nil && fmt.Sprint(has) != fmt.Sprint(owners) {
				return fmt.Errorf("proxy %d shows %v, and another %v", i, has, owners)
			}
			owners = has
		}
		return g.subscribed(owners)
	})
	return owners
}

// subscribed compares who reads which shard with the consumers that the brokers count.
func (g *groups) subscribed(owners map[string][]string) error {
	g.t.Helper()
	for queue, tags := range owners {
		q, err := g.atBroker(queue)
		if err != nil {
			return err
		}
		if q.Consumers != len(tags) {
			return fmt.Errorf("%s has %d consumers at its broker, and is shown with %v", queue, q.Consumers, tags)
		}
	}
	return nil
}

// atBroker asks the broker of a shard for it.
func (g *groups) atBroker(queue string) (q amqp.Queue, err error) {
	i := slices.IndexFunc(g.brokers, func(b *broker.Node) bool { return strings.Contains(queue, " - "+b.Name()+" - ") })
	ch, err := g.past(i)
	if err != nil {
		return q, err
	}
	return ch.QueueDeclarePassive(queue, true, false, false, false, nil)
}

// past is a channel to broker i past the proxies, a new one if it has to be.
func (g *groups) past(i int) (*amqp.Channel, error) {
	if ch := g.direct[i]; ch != nil && !ch.IsClosed() {
		return ch, nil
	}
	conn, err := amqp.Dial(g.brokers[i].URL(g.vhost))
	if err != nil {
		return nil, err
	}
	g.t.Cleanup(func() { conn.Close() })
	g.direct[i], err = conn.Channel()
	return g.direct[i], err
}

// ready waits until so many messages are ready in all shards of a stream together.
func (g *groups) ready(stream string, want int) {
	g.t.Helper()
	daemon.Eventually(g.t, groupPatience, func() error {
		sum := 0
		for _, s := range g.all(stream) {
			q, err := g.atBroker(s.Queue)
			if err != nil {
				return err
			}
			sum += q.Messages
		}
		if sum != want {
			return fmt.Errorf("%d messages are ready in the shards of %s, want %d", sum, stream, want)
		}
		return nil
	})
}

// unread waits until the brokers count no consumer of any shard.
func (g *groups) unread(stream string) {
	g.t.Helper()
	daemon.Eventually(g.t, groupPatience, func() error {
		for _, s := range g.all(stream) {
			if q, err := g.atBroker(s.Queue); err != nil || q.Consumers > 0 {
				return fmt.Errorf("%s has %d consumers (%v)", s.Queue, q.Consumers, err)
			}
		}
		return nil
	})
}

// consume begins to consume a stream on a channel, with a prefetch of its own.
func (g *groups) consume(ch *amqp.Channel, stream, tag string, prefetch int) <-chan amqp.Delivery {
	g.t.Helper()
	sessionMust(g.t, ch.Qos(prefetch, 0, false))
	deliveries, err := ch.Consume(stream, tag, false, false, false, false, nil)
	sessionMust(g.t, err)
	return deliveries
}

// take takes so many deliveries.
func take(t *testing.T, from <-chan amqp.Delivery, count int) (all []amqp.Delivery) {
	t.Helper()
	for n := range count {
		all = append(all, streamNext(t, from, fmt.Sprintf("delivery %d of %d", n+1, count)))
	}
	return all
}

// quiet looks on for a moment in which nothing may be delivered.
func quiet(t *testing.T, from <-chan amqp.Delivery, why string) {
	t.Helper()
	over := time.NewTimer(300 * time.Millisecond)
	defer over.Stop()
	select {
	case d, open := <-from:
		t.Errorf("%s: got %q (tag %d, open %v), want nothing", why, d.Body, d.DeliveryTag, open)
	case <-over.C:
	}
}
