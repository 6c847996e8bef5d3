package test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"amqproxy/test/daemon"
	"amqproxy/test/netns"
)

// sees waits until a proxy knows so many nodes and sees exactly these alive.
func sees(t *testing.T, p *daemon.Proxy, within time.Duration, known int, alive ...string) {
	t.Helper()
	daemon.Eventually(t, within, func() error {
		var got []string
		members := view[memberView](t, p, "members")
		for _, m := range members {
			if m.Presence == "alive" {
				got = append(got, m.Node)
			}
		}
		if len(members) != known || strings.Join(got, " ") != strings.Join(alive, " ") {
			return fmt.Errorf("want %v alive, got %v", alive, members)
		}
		return nil
	})
}

// keyFile is a file with a key for the gossip, of 32 such letters.
func keyFile(t *testing.T, letter string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gossip.key")
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// splitTime is longer than it takes to notice a split and, from then on, than
// memberlist still tries to reach who is lost, 30 s: it would heal a shorter one
// without our joining again.
const splitTime = 45 * time.Second

// TestManySplit: three proxies on hosts of their own. The network between them
// fails for one: the others go on without its shards, it goes on with its own
// alone, and when the network is back all find each other and agree.
func TestManySplit(t *testing.T) {
	t.Parallel()
	const stream = "shard.split"
	spaces := netns.Start(t, 3)
	m := &many{t: t, vhost: rabbit.VHost(t)}
	secret := keyFile(t, "k")
	for i, s := range spaces {
		p := daemon.New(t, fmt.Sprintf(`node: host%d
broker: amqp://%s
gossip: {listen: "%s:7946", join: ["%s:7946", "%s:7946"], secret-file: %s}
limits: {lost-grace: 1s, join-timeout: 1s}
definitions: {many: {shards-per-node: 2}}
policies:
  - {name: many, pattern: '^shard\.', vhost: %q, stream-definition: many}`,
			i, s.Forward(rabbit.Addr()), s.Addr, spaces[(i+1)%3].Addr, spaces[(i+2)%3].Addr, secret, m.vhost))
		p.Inside(s)
		p.Boot()
		m.proxies = append(m.proxies, p)
	}
	for _, p := range m.proxies {
		sees(t, p, 30*time.Second, 3, "host0", "host1", "host2")
	}
	m.declare(0, stream)
	m.agree(stream, 6, 10*time.Second, m.proxies...)

	cut := time.Now()
	spaces[2].Unplug()
	sees(t, m.proxies[0], time.Minute, 3, "host0", "host1")
	sees(t, m.proxies[1], time.Minute, 3, "host0", "host1")
	sees(t, m.proxies[2], time.Minute, 3, "host2")
	m.agree(stream, 4, 10*time.Second, m.proxies[:2]...) // the grace is over
	m.agree(stream, 2, 10*time.Second, m.proxies[2])
	for i := range m.proxies {
		m.publish(i, stream, 50, "split")
	}
	m.declare(1, "shard.meanwhile")
	m.agree("shard.meanwhile", 4, 10*time.Second, m.proxies[:2]...)

	time.Sleep(splitTime - time.Since(cut))
	spaces[2].Plug()
	healed := time.Now()
	for _, p := range m.proxies {
		sees(t, p, time.Minute, 3, "host0", "host1", "host2")
	}
	t.Logf("all saw all after %s", time.Since(healed).Round(time.Millisecond))
	for _, stream := range []string{stream, "shard.meanwhile"} {
		m.agree(stream, 6, 5*time.Second, m.proxies...)
	}
	t.Logf("all agreed after %s", time.Since(healed).Round(time.Millisecond))
	for i := range m.proxies {
		m.publish(i, stream, 50, "healed")
	}
}

// TestManyOtherKey: a proxy with another key than the others finds nobody, goes on
// alone, and says why.
func TestManyOtherKey(t *testing.T) {
	t.Parallel()
	spaces := netns.Start(t, 3)
	var proxies []*daemon.Proxy
	for i, s := range spaces {
		p := daemon.New(t, fmt.Sprintf(`node: host%d
broker: amqp://%s
gossip: {listen: "%s:7946", join: ["%s:7946"], secret-file: %s}
limits: {join-timeout: 1s}`, i, s.Forward(rabbit.Addr()), s.Addr, spaces[(i+1)%2].Addr, keyFile(t, []string{"k", "k", "x"}[i])))
		p.Inside(s)
		p.Boot()
		proxies = append(proxies, p)
	}
	sees(t, proxies[1], 10*time.Second, 2, "host0", "host1")
	sees(t, proxies[2], 0, 1, "host2")
	if log := proxies[2].Log(); !strings.Contains(log, "no other proxy was found") || !strings.Contains(log, "could decrypt") {
		t.Error("it does not say that its key is not theirs")
	}
}
