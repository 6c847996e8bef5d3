package test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

const (
	// floodCount is how many hostile connections there are at once.
	floodCount = 2000
	// floodResident is how much of the proxy's resident memory one may cost, in octets.
	floodResident = 64 << 10
)

// floodKinds are what hostile clients say and then leave as it is.
func floodKinds(t *testing.T) map[string][]byte {
	login := rawLogin{}
	open := bytes.Join([][]byte{frame.ProtocolHeader, login.startOk(), login.tuneOk(), login.open(), streamFrames(t, "1 channel.open")}, nil)
	stream := `1 basic.publish exchange="` + hostileStream + `"`
	big := rawLogin{response: rawPlain(strings.Repeat("x", 4000), strings.Repeat("y", 4000))}
	return map[string][]byte{
		"half a protocol header":  frame.ProtocolHeader[:4],
		"no start-ok":             frame.ProtocolHeader,
		"half a start-ok":         append(bytes.Clone(frame.ProtocolHeader), big.startOk()[:4000]...),
		"a name of 4000 octets":   append(bytes.Clone(frame.ProtocolHeader), big.startOk()...),
		"a body of 2^63":          append(bytes.Clone(open), streamFrames(t, `1 basic.publish exchange="e"`, "1 header body-size=9223372036854775808", `1 body "x"`)...),
		"the same, to a stream":   append(bytes.Clone(open), streamFrames(t, stream, "1 header body-size=9223372036854775808", `1 body "x"`)...),
		"a publish that is held":  append(bytes.Clone(open), streamFrames(t, stream)...),
		"half a frame of 128 KiB": append(bytes.Clone(open), append([]byte{frame.TypeBody, 0, 1, 0, 1, 0xFF, 0xF0}, make([]byte, 8000)...)...),
		"publishes, the last cut": append(bytes.Clone(open), bytes.Repeat(streamFrames(t, stream, "1 header body-size=0"), 200)[:9500]...),
	}
}

// TestHostileFlood: thousands of connections that are up to no good cost the proxy a
// bounded amount of memory each, and a client beside them is served meanwhile.
func TestHostileFlood(t *testing.T) {
	t.Parallel()
	l := hostileStart(t, nil, (*daemon.Proxy).Plain)
	neighbour := l.neighbour(t)
	kinds := floodKinds(t)
	var names []string
	for name := range kinds {
		names = append(names, name)
	}
	resident := sessionMemory(t, l.pid, "VmRSS")
	began := time.Now()
	conns := make([]net.Conn, floodCount)
	var dialling sync.WaitGroup
	for w := range hostileWorkers {
		dialling.Go(func() {
			for i := w; i < len(conns); i += hostileWorkers {
				conn, err := net.Dial("tcp", l.proxy.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = conn
				if _, err := conn.Write(kinds[names[i%len(names)]]); err != nil {
					t.Errorf("%s: %v", names[i%len(names)], err)
				}
			}
		})
	}
	dialling.Wait()
	daemon.Eventually(t, streamPatience, func() error {
		if u := l.uses(t); u.connections != floodCount+1 {
			return fmt.Errorf("%d connections", u.connections)
		}
		return nil
	})
	each := (sessionMemory(t, l.pid, "VmHWM") - resident) / floodCount
	t.Logf("%d connections in %s take %d KiB each", floodCount, time.Since(began), each>>10)
	if each > floodResident {
		t.Errorf("each takes %d KiB of resident memory, want at most %d", each>>10, floodResident>>10)
	}
	neighbour.wantServed(200, 10*time.Second)
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	l.wantNoMore(t, hostileUses{connections: 1, channels: 1, goroutines: 100, files: 100})
	neighbour.done(5 * time.Second)
}

// TestHostileBroken: dozens of clients at once that break the protocol in every way,
// again and again, are all closed and leave nothing; a client beside them is served
// meanwhile.
func TestHostileBroken(t *testing.T) {
	t.Parallel()
	l := hostileStart(t, nil)
	neighbour := l.neighbour(t)
	before := l.uses(t)
	login := rawLogin{}
	greet := bytes.Join([][]byte{frame.ProtocolHeader, login.startOk()}, nil)
	open := bytes.Join([][]byte{greet, login.tuneOk(), login.open(), streamFrames(t, "1 channel.open")}, nil)
	ends := map[string][]byte{ // whole ones, that the broken frames come behind
		"at once": frame.ProtocolHeader, "behind start-ok": greet, "behind channel.open": open,
	}
	broken := map[string][]byte{
		"size of 0xFFFFFFFF":      {frame.TypeMethod, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF},
		"size over the limit":     {frame.TypeBody, 0, 1, 0, 2, 0, 1},
		"wrong end octet":         {frame.TypeHeartbeat, 0, 0, 0, 0, 0, 0, 0},
		"a body that is too long": streamFrames(t, "1 channel.open", `1 basic.publish exchange="e"`, "1 header body-size=1", `1 body "abc"`),
		"channel 65535":           streamFrames(t, "65535 channel.open"),
	}
	served := make(chan struct{})
	var says [][]byte
	for _, first := range ends {
		for _, then := range broken {
			says = append(says, append(bytes.Clone(first), then...))
		}
	}
	var clients sync.WaitGroup
	var count atomic.Int64
	for i := range 45 {
		clients.Go(func() {
			for {
				if err := floodBroken(l.proxy.Addr(), says[i%len(says)]); err != nil {
					t.Errorf("client %d: %v", i%len(says), err)
				}
				count.Add(1)
				select {
				case <-served:
					return
				default:
				}
			}
		})
	}
	defer clients.Wait()
	release := sync.OnceFunc(func() { close(served) })
	defer release()
	began := time.Now()
	neighbour.wantServed(50, 20*time.Second)
	release()
	clients.Wait()
	t.Logf("%d clients in %s", count.Load(), time.Since(began))
	l.wantNoMore(t, before)
	neighbour.done(5 * time.Second)
}

// floodBroken is a client that says something and wants its socket closed, by itself
// or once it has ended its own side.
func floodBroken(addr string, says []byte) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(streamPatience))
	if _, err := conn.Write(says); err != nil {
		return nil // it was closed before all was said
	}
	conn.(*net.TCPConn).CloseWrite()
	if _, err := io.Copy(io.Discard, conn); timedOut(err) {
		return err
	}
	return nil
}
