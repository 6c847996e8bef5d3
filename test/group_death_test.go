package test

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// These are how long the shards of who is gone may be without a consumer. What is measured
// ends with a delivery, which takes its time on a busy machine, too: that is groupSlack.
const (
	clientGone = time.Second
	proxyGone  = 9 * time.Second // memberlist: up to 3 s until a probe of its turn, 1 s for that, 4 s under suspicion; and 1 s
	frozenGone = 16 * time.Second
	groupSlack = 500 * time.Millisecond
)

// groupPace is how often all keys are published where a test measures: a shard's next
// message is never far, and the machine not busy with messages only.
const groupPace = 150 * time.Millisecond

// lifeline is a flow of each mode with a reader at each proxy, on one installation.
type lifeline struct {
	*groups
	flows   []*flow
	readers map[*flow][]*reader
}

// lifeline has the keys of node 2 published by themselves, since what waits for a broker
// holds up its producer.
func (g *groups) lifeline(name string) *lifeline {
	l := &lifeline{groups: g, readers: map[*flow][]*reader{}}
	for _, mode := range groupModes {
		f := g.flow(mode, name, 30)
		for i := range g.proxies {
			l.readers[f] = append(l.readers[f], f.join(i, 20))
		}
		f.shared(f.stream, []int{0, 1, 2}, 2, 2, 2)
		f.produce(0, groupPace, 0, 1)
		f.produce(0, groupPace, 2)
		f.another(5)
		l.flows = append(l.flows, f)
	}
	return l
}

// strike does something to the reader at proxy i, and wants the shards on some nodes to be
// read again within a time.
func (l *lifeline) strike(what string, i int, within time.Duration, do func(*flow, *reader), nodes ...int) {
	l.t.Helper()
	for _, f := range l.flows {
		f.mark()
		do(f, l.readers[f][i])
	}
	for _, f := range l.flows {
		took := f.covered(l.t, f.shards(nodes...)...)
		l.t.Logf("%s: after %s all shards of %s are read", what, took.Round(time.Millisecond), f.stream)
		if took > within {
			l.t.Errorf("%s: after %s all shards of %s are read, want %s", what, took, f.stream, within)
		}
	}
}

// replace has another reader join at proxy i.
func (l *lifeline) replace(i int) {
	l.t.Helper()
	for _, f := range l.flows {
		l.readers[f][i] = f.join(i, 20)
	}
	for _, f := range l.flows {
		f.shared(f.stream, []int{0, 1, 2}, 2, 2, 2)
	}
}

// end reads all to the end and judges. undisturbed are the proxies whose readers lived on.
func (l *lifeline) end(undisturbed ...int) {
	l.t.Helper()
	for _, f := range l.flows {
		f.another(5)
		f.end()
	}
	for _, f := range l.flows {
		f.verdict(l.t, true)
		for _, i := range undisturbed {
			l.readers[f][i].undisturbed(l.t)
		}
	}
}

// TestManyGroupConsumerDies: the shards of a consumer that is cut off with a reset, that
// closes its connection, and that cancels, are read by others within a second.
func TestManyGroupConsumerDies(t *testing.T) { both(t, testManyGroupConsumerDies) }

func testManyGroupConsumerDies(t *testing.T, on *threeBrokers) {
	l := startGroups(t, on, 2, "", "").lifeline("consumer")
	for i, end := range []struct {
		what string
		do   func(*flow, *reader)
	}{
		{"a reset", func(_ *flow, r *reader) { r.die() }},
		{"a close of the connection", func(_ *flow, r *reader) { r.hangUp() }},
		{"a cancel", func(_ *flow, r *reader) { r.leave() }},
	} {
		l.strike(end.what, i, clientGone+groupSlack, end.do, 0, 1, 2)
		l.replace(i)
	}
	l.end()
}

// TestManyGroupProxyStops: a proxy that stops in order hands its consumers' shards over at
// once, those of its own node too, which stay in use.
func TestManyGroupProxyStops(t *testing.T) { both(t, testManyGroupProxyStops) }

func testManyGroupProxyStops(t *testing.T, on *threeBrokers) {
	l := startGroups(t, on, 2, "", "").lifeline("stops")
	l.strike("SIGTERM of a proxy", 2, clientGone+groupSlack, func(f *flow, r *reader) {
		f.dies(r.tag)
		if f == l.flows[len(l.flows)-1] {
			l.proxies[2].Signal(syscall.SIGTERM)
		}
	}, 0, 1, 2)
	if code := l.proxies[2].Wait(streamPatience); code != 0 {
		t.Errorf("the proxy ended with code %d", code)
	}
	for _, f := range l.flows {
		f.another(5)
	}
	l.proxies[2].Boot()
	l.replace(2)
	l.end(0, 1)
}

// TestManyGroupProxyDies: the shards of the consumers of a proxy that was killed are read by
// others when its silence is noticed. When it is back, its consumers have a part again.
func TestManyGroupProxyDies(t *testing.T) { both(t, testManyGroupProxyDies) }

func testManyGroupProxyDies(t *testing.T, on *threeBrokers) {
	l := startGroups(t, on, 2, "", "").lifeline("killed")
	l.strike("SIGKILL of a proxy", 1, proxyGone+groupSlack, func(f *flow, r *reader) {
		f.dies(r.tag)
		if f == l.flows[len(l.flows)-1] {
			l.proxies[1].Kill()
		}
	}, 0, 1, 2)
	for _, f := range l.flows {
		f.another(5)
	}
	l.proxies[1].Boot()
	l.replace(1)
	l.end(0, 2)
}

// TestManyGroupProxyFreezes: the shards of the consumers of a proxy that is stopped with
// SIGSTOP are read by others when their brokers have dropped it. When it goes on, all
// is as before. In a cluster that is with the heartbeat that is the default.
func TestManyGroupProxyFreezes(t *testing.T) { both(t, testManyGroupProxyFreezes) }

func testManyGroupProxyFreezes(t *testing.T, on *threeBrokers) {
	limits := ""
	if on == apart {
		limits = "link-heartbeat: 2s"
	}
	l := startGroups(t, on, 2, "", limits).lifeline("frozen")
	l.flows[0].unordered() // in a balanced group nobody asks the broker who else reads
	l.strike("SIGSTOP of a proxy", 1, frozenGone+groupSlack, func(f *flow, r *reader) {
		f.dies(r.tag)
		if f == l.flows[len(l.flows)-1] {
			l.proxies[1].Signal(syscall.SIGSTOP)
		}
	}, 0, 1, 2)
	for _, f := range l.flows {
		f.another(5)
	}
	l.proxies[1].Signal(syscall.SIGCONT)
	for _, f := range l.flows {
		l.readers[f][1].socket.Close() // unless the proxy was faster
	}
	l.replace(1)
	l.end(0, 2)
}

// TestManyGroupBrokerDies: when a broker is killed, the consumers of the others read on, and
// take over from those that were connected by it. When it is back, its shards are read
// again, from where they were.
func TestManyGroupBrokerDies(t *testing.T) { both(t, testManyGroupBrokerDies) }

func testManyGroupBrokerDies(t *testing.T, on *threeBrokers) {
	const patient = "confirm-timeout: 2m, wait-timeout: 1m"
	l := startGroups(t, on, 2, "on-unavailable: wait, delivery-mode: persistent", patient).lifeline("broker")
	if err := l.brokers[2].Sync(t.Context()); err != nil { // or the queues may be gone with it
		t.Fatal(err)
	}
	l.strike("kill -9 of a broker", 2, clientGone+groupSlack, func(f *flow, r *reader) {
		f.dies(r.tag)
		f.mu.Lock()
		f.forgetful = true
		f.mu.Unlock()
		if f == l.flows[len(l.flows)-1] {
			l.brokers[2].Kill()
			for _, f := range l.flows {
				f.mark() // its last words are said
			}
		}
	}, 0, 1)
	l.direct[2] = nil
	if err := l.brokers[2].Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range l.flows {
		f.mark()
	}
	for _, f := range l.flows {
		took := f.covered(t, f.shards(2)...)
		t.Logf("after %s the shards of the broker are read again in %s", took, f.stream)
		if took > 15*time.Second {
			t.Error(fmt.Sprint("it took ", took, " until the shards of the broker were read again"))
		}
	}
	l.replace(2)
	l.end(0, 1)
}
