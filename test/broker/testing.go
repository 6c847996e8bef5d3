package broker

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"
)

// ForTest starts a node for one test and closes it when the test ends. Without RabbitMQ the test
// fails.
func ForTest(t testing.TB, o Options) *Node {
	t.Helper()
	n, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, n)
	return n
}

// ClusterForTest is ForTest for a cluster of count nodes.
func ClusterForTest(t testing.TB, count int, o Options) []*Node {
	t.Helper()
	nodes, err := StartCluster(t.Context(), count, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		closeAfter(t, n)
	}
	return nodes
}

func closeAfter(t testing.TB, n *Node) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.LogTail())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}

// VHost creates a vhost of the test's own, with all permissions for guest, and returns its name. It
// goes away with the test.
func (n *Node) VHost(t testing.TB) string {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	name = strings.ToValidUTF8(name[:min(len(name), 100)], "") + "-" + strings.ToLower(rand.Text()[:8])
	n.AddVHost(t, name)
	return name
}

// AddVHost is VHost with a name.
func (n *Node) AddVHost(t testing.TB, name string) {
	t.Helper()
	if err := n.PutVHost(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // each that is there makes the next one more costly: the 200th takes ten times as long
		if n.current().running() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			n.deleteVHost(ctx, name) // another node may have done it, or the test may have paused this one
		}
	})
}

// AddUser creates a user, or gives an existing one this password, and sets its permissions.
func (n *Node) AddUser(t testing.TB, u User) {
	t.Helper()
	if err := n.PutUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

// Address is ReserveAddress for one test.
func Address(t testing.TB) string {
	t.Helper()
	addr, release, err := ReserveAddress()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addr
}
