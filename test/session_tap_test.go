package test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// sessionTap stands between a proxy and its broker and keeps what passes, both
// ways, so that a test can hold it against what the client sent and received.
type sessionTap struct {
	broker string

	mu    sync.Mutex
	wires []*sessionWire
}

// sessionWire is one connection of the proxy to the broker.
type sessionWire struct {
	mu             sync.Mutex
	sent, received bytes.Buffer // from the proxy's point of view
}

// sessionTapped runs a proxy for a broker with a tap between them.
func sessionTapped(t *testing.T, n *broker.Node, yaml string) (*daemon.Proxy, *sessionTap) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	sessionMust(t, err)
	t.Cleanup(func() { l.Close() })
	tap := &sessionTap{broker: n.Addr()}
	go func() { // ends when the listener is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go tap.relay(conn.(*net.TCPConn))
		}
	}()
	return daemon.Start(t, "broker: amqp://"+l.Addr().String()+"\n"+yaml), tap
}

func (tap *sessionTap) relay(proxy *net.TCPConn) {
	defer proxy.Close()
	conn, err := net.Dial("tcp", tap.broker)
	if err != nil {
		return
	}
	broker := conn.(*net.TCPConn)
	defer broker.Close()
	w := &sessionWire{}
	tap.mu.Lock()
	tap.wires = append(tap.wires, w)
	tap.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { w.copy(broker, proxy, &w.sent) })
	both.Go(func() { w.copy(proxy, broker, &w.received) })
	both.Wait()
}

// copy keeps what it reads before it passes it on: who sees its effect finds it.
func (w *sessionWire) copy(to, from *net.TCPConn, kept *bytes.Buffer) {
	buf := make([]byte, 64<<10)
	for {
		sessionAckLate(from)
		n, err := from.Read(buf)
		w.mu.Lock()
		kept.Write(buf[:n])
		w.mu.Unlock()
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			to.CloseWrite()
			io.Copy(io.Discard, from) // so that its end is no reset
			return
		}
	}
}

// find gives what passed on the one connection on which the proxy said marker.
func (tap *sessionTap) find(marker string) (sent, received []byte, err error) {
	tap.mu.Lock()
	defer tap.mu.Unlock()
	found := 0
	for _, w := range tap.wires {
		w.mu.Lock()
		if bytes.Contains(w.sent.Bytes(), []byte(marker)) {
			sent, received = bytes.Clone(w.sent.Bytes()), bytes.Clone(w.received.Bytes())
			found++
		}
		w.mu.Unlock()
	}
	if found != 1 {
		err = fmt.Errorf("%d connections to the broker say %q, want 1", found, marker)
	}
	return sent, received, err
}

// sessionSame wants two streams of octets to be equal and shows where they part.
func sessionSame(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	show := func(b []byte) []byte { return b[max(0, at-40):min(len(b), at+80)] }
	return fmt.Errorf("%d octets, want %d; they differ from octet %d on:\ngot  %q\nwant %q",
		len(got), len(want), at, show(got), show(want))
}

// sessionAckLate has the kernel hold back the acknowledgements of what a socket
// receives, until it sends itself or 40 ms have passed. The kernel forgets it, so
// it is to be called again and again.
func sessionAckLate(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { // fails only on a closed socket
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 0)
	})
}
