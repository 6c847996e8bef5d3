// Package netns makes Linux network namespaces for tests: each is a host of its
// own, and a bridge joins them whose ports can be pulled. It needs root and the ip
// command, and leaves nothing behind.
package netns

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Space is one namespace.
type Space struct {
	Addr string // its address on the bridge, the same in every lab

	t    testing.TB
	name string // of the namespace, and of the bridge's port to it
}

// labs makes names unique in this process.
var labs atomic.Int64

// Start makes so many namespaces on one bridge, which last as long as the test.
func Start(t testing.TB, count int) []*Space {
	t.Helper()
	lab := fmt.Sprintf("aq%d.%d", os.Getpid(), labs.Add(1)) // a link's name has at most 15 letters
	ip(t, "link add %s type bridge", lab)
	t.Cleanup(func() { ip(t, "link del %s", lab) })
	ip(t, "link set %s up", lab)
	var spaces []*Space
	for i := range count {
		s := &Space{Addr: fmt.Sprintf("10.77.0.%d", i+1), t: t, name: fmt.Sprintf("%s.%d", lab, i)}
		ip(t, "netns add %s", s.name)
		t.Cleanup(func() { ip(t, "netns del %s", s.name) })
		ip(t, "link add %s master %s type veth peer name bridge netns %s", s.name, lab, s.name)
		t.Cleanup(func() { ip(t, "link del %s", s.name) }) // the namespace may outlive its name
		ip(t, "-n %s addr add %s/24 dev bridge", s.name, s.Addr)
		ip(t, "-n %s link set lo up", s.name)
		ip(t, "-n %s link set bridge up", s.name)
		s.Plug()
		spaces = append(spaces, s)
	}
	return spaces
}

func ip(t testing.TB, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

// Plug connects the space to the bridge.
func (s *Space) Plug() {
	s.t.Helper()
	ip(s.t, "link set %s up", s.name)
}

// Unplug takes the space off the bridge: what it sends and is sent is lost.
func (s *Space) Unplug() {
	s.t.Helper()
	ip(s.t, "link set %s down", s.name)
}

// Command is a command that runs in the space. Its process is the command's own.
func (s *Space) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", s.name, name}, args...)...)
}

// Dial connects to an IP address as somebody in the space.
func (s *Space) Dial(network, addr string) (c net.Conn, err error) {
	err = s.inside(func() (err error) { c, err = net.Dial(network, addr); return err })
	return c, err
}

// Forward listens on loopback in the space, and connects who comes to an address
// outside. It returns where it listens.
func (s *Space) Forward(to string) string {
	s.t.Helper()
	var ln net.Listener
	if err := s.inside(func() (err error) { ln, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		s.t.Fatal(err)
	}
	var running sync.WaitGroup
	s.t.Cleanup(func() { ln.Close(); running.Wait() })
	running.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				running.Go(func() {
					io.Copy(way[0], way[1])
					in.Close()
					out.Close()
				})
			}
		}
	})
	return ln.Addr().String()
}

// inside runs f on a thread in the space: a socket stays where it was made. The
// thread comes back: if it ended, processes that it has started, and that are to
// die with their parent, would too.
func (s *Space) inside(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := os.Open(filepath.Join("/run/netns", s.name))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	defer func() {
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // other tests would run in the space
		}
	}()
	return f()
}
