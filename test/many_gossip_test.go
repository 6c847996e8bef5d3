package test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestManyStrangers: a proxy with another label, another key or no key gets nothing
// of the others, nor they of it; with theirs it does.
func TestManyStrangers(t *testing.T) { both(t, testManyStrangers) }

func testManyStrangers(t *testing.T, on *threeBrokers) {
	m := newMany(t, on, 1, "limits: {join-timeout: 1s}")
	ours, other := gossipKey(t), gossipKey(t)
	gossip := fmt.Sprintf("label: %s}", m.vhost)
	with := func(label, key string) string { return fmt.Sprintf("label: %s, secret-file: %s}", label, key) }
	for _, p := range m.proxies {
		p.Replace(gossip, with(m.vhost, ours))
	}
	m.boot(0, 1)
	const stream = "shard.secret"
	m.declare(0, stream)
	m.agree(stream, 2, 2*time.Second, m.proxies[:2]...)

	for what, strange := range map[string]string{
		"another label": with("other", ours),
		"another key":   with(m.vhost, other),
		"no key":        gossip,
	} {
		m.proxies[2].Replace(with(m.vhost, ours), strange)
		m.proxies[2].Boot() // has then asked the others for the whole join-timeout
		wants := [][]int{{0, 1}, {0, 1}, {2}}
		for i := range m.proxies {
			var nodes []string
			for _, j := range wants[i] {
				nodes = append(nodes, m.brokers[j].Name())
			}
			if got := m.alive(i); !slices.Equal(got, nodes) {
				t.Errorf("%s: proxy %d knows %q, want %q", what, i, got, nodes)
			}
		}
		if got := view[streamView](t, m.proxies[2], "streams"); len(got) > 0 {
			t.Errorf("%s: the stranger knows %v", what, got)
		}
		m.proxies[2].Kill()
		m.proxies[2].Replace(strange, with(m.vhost, ours))
	}
	m.agree(stream, 2, 2*time.Second, m.proxies[:2]...)

	m.boot(2)
	m.agree(stream, 3, 2*time.Second, m.proxies...)
	m.publish(2, stream, 100, "x")
	wantAt(t, predict(stream, 100, m.plain(stream, 1, 0, 1, 2)), m.where(stream))
}

// gossipKey is a file with a new key.
func gossipKey(t *testing.T) string {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	path := filepath.Join(t.TempDir(), "gossip.key")
	if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
