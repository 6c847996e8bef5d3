package test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// sessionGrowth is how much memory a proxy may take for a message of any size on its
// way through two connections: 4 MiB of it is what Go's collector leaves alone.
const sessionGrowth = 6 << 20

// TestSessionBodies: messages of every size come back as they were, in frames of
// the agreed size, and the proxy holds no more of a large one than of a small one.
func TestSessionBodies(t *testing.T) {
	t.Parallel()
	p := daemon.New(t, "broker: amqp://"+rabbit.Addr()+"\nnode: bodies@test")
	p.Plain() // the race detector takes more memory than what is measured
	p.Boot()
	pid, vhost := sessionPID(t, "node: bodies@test"), rabbit.VHost(t)
	for _, tc := range []struct {
		size     int
		frameMax int
		slow     time.Duration // the reader's pause within the message
	}{
		{size: 0, frameMax: 131072},
		{size: 1, frameMax: 131072},
		{size: 4096 - frame.Overhead, frameMax: 4096},
		{size: 4096 - frame.Overhead + 1, frameMax: 4096},
		{size: 1 << 20, frameMax: 4096},
		{size: 1 << 20, frameMax: 131072},
		{size: 128 << 20, frameMax: 131072, slow: time.Second},
	} {
		t.Run(fmt.Sprintf("%d octets in frames of %d", tc.size, tc.frameMax), func(t *testing.T) {
			sender, receiver := rawDial(t, p.Addr()), rawDial(t, p.Addr())
			sender.login(rawLogin{vhost: vhost, frameMax: uint32(tc.frameMax)})
			receiver.login(rawLogin{vhost: vhost, frameMax: uint32(tc.frameMax)})
			sender.send(`1 queue.declare queue="bodies"`, "1 confirm.select")
			sender.want(frame.QueueDeclareOk)
			sender.want(frame.ConfirmSelectOk)
			before := sessionMemory(t, pid, "VmRSS")

			want := rawSendBody(sender, "bodies", tc.size, tc.frameMax)
			sender.want(frame.BasicAck)
			receiver.send(`1 basic.get queue="bodies" no-ack`)
			receiver.want(frame.BasicGetOk)
			if got := rawReceiveBody(receiver, tc.size, tc.frameMax, tc.slow); got != want {
				t.Errorf("the body came back as another: hash %x, want %x", got, want)
			}
			if grown := sessionMemory(t, pid, "VmHWM") - before; grown > sessionGrowth {
				t.Errorf("the proxy grew by %d MiB, want at most %d", grown>>20, sessionGrowth>>20)
			} else {
				t.Logf("the proxy grew by %d KiB", grown>>10)
			}
		})
	}
}

// rawSendBody publishes a message of noise, frame by frame, and returns its hash.
func rawSendBody(c *rawConn, queue string, size, frameMax int) [sha256.Size]byte {
	c.t.Helper()
	c.send(fmt.Sprintf("1 basic.publish routing-key=%q", queue), fmt.Sprintf("1 header body-size=%d", size))
	hash, noise := sha256.New(), rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	buf := make([]byte, frameMax)
	for left := size; left > 0; {
		n := min(left, frameMax-frame.Overhead)
		f := buf[:n+frame.Overhead]
		noise.Read(f[7 : 7+n]) // it never fails
		hash.Write(f[7 : 7+n])
		f[0], f[1], f[2], f[len(f)-1] = frame.TypeBody, 0, 1, 0xCE
		binary.BigEndian.PutUint32(f[3:], uint32(n))
		c.write(f)
		left -= n
	}
	return [sha256.Size]byte(hash.Sum(nil))
}

// rawReceiveBody reads the rest of a message and returns its body's hash. After
// the header it stops reading for a while, as a busy client does.
func rawReceiveBody(c *rawConn, size, frameMax int, slow time.Duration) [sha256.Size]byte {
	c.t.Helper()
	header := c.next()
	if n, ok := frame.BodySize(header); header.Type() != frame.TypeHeader || !ok || n != uint64(size) {
		c.t.Fatalf("got %s, want the header of %d octets", header, size)
	}
	time.Sleep(slow) // the pace of this client
	hash, got := sha256.New(), 0
	for got < size {
		f := c.next()
		if f.Type() != frame.TypeBody || len(f) > frameMax {
			c.t.Fatalf("after %d octets: got %s, want a body frame of at most %d", got, f, frameMax)
		}
		got += len(f.Payload())
		hash.Write(f.Payload())
	}
	return [sha256.Size]byte(hash.Sum(nil))
}

// sessionMemory is a line of /proc/PID/status, in octets.
func sessionMemory(t *testing.T, pid, name string) (octets int) {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	sessionMust(t, err)
	_, after, _ := strings.Cut(string(status), "\n"+name+":")
	if _, err := fmt.Sscanf(after, "%d kB", &octets); err != nil {
		t.Fatalf("%s of process %s: %v", name, pid, err)
	}
	return octets << 10
}

// sessionPID is the process id of the proxy with this line in its configuration.
func sessionPID(t *testing.T, line string) string {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/children")
	sessionMust(t, err)
	for _, thread := range threads {
		children, _ := os.ReadFile(thread) // the thread may have ended
		for _, pid := range strings.Fields(string(children)) {
			args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			words := strings.Split(string(args), "\x00")
			if len(words) < 4 || words[1] != "run" {
				continue
			}
			if config, _ := os.ReadFile(words[3]); strings.Contains(string(config), line) {
				return pid
			}
		}
	}
	t.Fatalf("found no proxy with %q in its configuration", line)
	return ""
}

// TestSessionUnfinishedBody: a header may promise anything; nothing is taken for
// it before it comes.
func TestSessionUnfinishedBody(t *testing.T) {
	t.Parallel()
	p := daemon.New(t, "broker: amqp://"+rabbit.Addr()+"\nnode: unfinished@test")
	p.Plain() // the race detector takes more memory than what is measured
	p.Boot()
	pid, vhost := sessionPID(t, "node: unfinished@test"), rabbit.VHost(t)
	before := sessionMemory(t, pid, "VmRSS")
	var clients []*rawConn
	for range 20 {
		c := rawDial(t, p.Addr())
		c.login(rawLogin{vhost: vhost})
		c.send(`1 basic.publish exchange="amq.fanout"`, "1 header body-size=1099511627776", `1 body "begun"`, "0 heartbeat")
		c.openChannel(2) // an answer: what came before has been taken
		clients = append(clients, c)
	}
	for _, c := range clients {
		c.logout()
	}
	if grown := sessionMemory(t, pid, "VmHWM") - before; grown > sessionGrowth {
		t.Errorf("the proxy grew by %d MiB for 20 unfinished messages, want at most %d", grown>>20, sessionGrowth>>20)
	} else {
		t.Logf("the proxy grew by %d KiB", grown>>10)
	}
}
