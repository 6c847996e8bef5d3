package test

import (
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"amqproxy/frame"
	"amqproxy/test/broker"
)

// sessionForeignAddr is an address of this machine that is no loopback address. A
// machine that has none gets one for the time of the test.
func sessionForeignAddr(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	sessionMust(t, err)
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String()
		}
	}
	const spare = "198.51.100.77/32" // of a range for documentation
	if out, err := exec.Command("ip", "address", "add", spare, "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("this machine has no address but loopback, and none can be added: %v\n%s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "address", "del", spare, "dev", "lo").Run() })
	return "198.51.100.77"
}

// sessionForeignDial connects to a proxy that listens on all interfaces from an
// address that is not loopback.
func sessionForeignDial(t *testing.T, proxyAddr string) *rawConn {
	t.Helper()
	_, port, err := net.SplitHostPort(proxyAddr)
	sessionMust(t, err)
	c := rawDial(t, net.JoinHostPort(sessionForeignAddr(t), port))
	if c.LocalAddr().(*net.TCPAddr).IP.IsLoopback() {
		t.Fatalf("connected from %s, want an address that is not loopback", c.LocalAddr())
	}
	return c
}

const sessionEverywhere = "listen: 0.0.0.0:0\n"

// TestSessionLoopbackUsers: users of the list are let in from loopback only, and
// refused in the broker's own words, as if their password were wrong.
func TestSessionLoopbackUsers(t *testing.T) {
	t.Parallel()
	vhost := rabbit.VHost(t)
	rabbit.AddUser(t, broker.User{Name: "session-remote", Password: "secret", VHost: vhost, Configure: ".*"})
	defaults := sessionProxy(t, rabbit, sessionEverywhere)
	anyone := sessionProxy(t, rabbit, sessionEverywhere+"loopback-users: []")
	listed := sessionProxy(t, rabbit, sessionEverywhere+"loopback-users: [session-remote]")

	amqplain := string(frame.Table{}.AppendString("LOGIN", "guest").AppendString("PASSWORD", "guest"))
	twoLogins := string(frame.Table{}.AppendString("LOGIN", "guest").AppendString("LOGIN", "session-remote").AppendString("PASSWORD", "guest"))
	guest := rawLogin{response: rawPlain("guest", "guest"), vhost: vhost, properties: rawCapabilities}
	guestAMQPlain := rawLogin{mechanism: "AMQPLAIN", response: amqplain, vhost: vhost, properties: rawCapabilities}
	guestTwoLogins := rawLogin{mechanism: "AMQPLAIN", response: twoLogins, vhost: vhost, properties: rawCapabilities}
	remote := rawLogin{response: rawPlain("session-remote", "secret"), vhost: vhost, properties: rawCapabilities}

	for _, tc := range []struct {
		name, addr string
		login      rawLogin
		in         bool
	}{
		{"guest by default", defaults.Addr(), guest, false},
		{"guest with AMQPLAIN by default", defaults.Addr(), guestAMQPlain, false},
		{"guest with AMQPLAIN and a second name", defaults.Addr(), guestTwoLogins, false}, // the first one counts
		{"another user by default", defaults.Addr(), remote, true},
		{"guest where anyone is let in", anyone.Addr(), guest, true},
		{"guest who is not in the list", listed.Addr(), guest, true},
		{"another user who is in the list", listed.Addr(), remote, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := sessionForeignDial(t, tc.addr)
			if tc.in {
				c.login(tc.login)
				c.logout()
				return
			}
			wrong := tc.login
			wrong.response = wrong.response[:len(wrong.response)-1] + "X" // as a wrong password
			direct := rawDial(t, rabbit.Addr())
			wrong.start(direct)
			tc.login.start(c)
			want, got := direct.want(frame.ConnectionClose), c.want(frame.ConnectionClose)
			if !strings.Contains(want.String(), "reply-code=403") || !cmp.Equal(want, got) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	t.Run("without the capability", func(t *testing.T) {
		c := sessionForeignDial(t, defaults.Addr())
		rawLogin{vhost: vhost}.start(c)
		c.wantEOF(8 * time.Second)
	})
	t.Run("guest from loopback", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(defaults.Addr())
		c := rawDial(t, net.JoinHostPort("127.0.0.1", port))
		c.login(guest)
		c.logout()
	})
}

// sessionLoopbackTwoStep: a mechanism whose user the proxy does not know opens no
// way around the list.
func sessionLoopbackTwoStep(t *testing.T, n *broker.Node) {
	p := sessionProxy(t, n, sessionEverywhere)
	c := sessionForeignDial(t, p.Addr())
	l := rawLogin{mechanism: "RABBIT-CR-DEMO", response: "guest", properties: rawCapabilities}
	l.start(c)
	for {
		f, err := c.poll(streamPatience)
		switch {
		case err != nil:
			return
		case f.Method() == frame.ConnectionSecure:
			c.write(frame.Build(nil, 0, frame.ConnectionSecureOk).LongStr("My password is guest").End())
		case f.Method() == frame.ConnectionTune:
			c.write(append(l.tuneOk(), l.open()...))
		case f.Method() == frame.ConnectionClose:
			return
		case f.Method() == frame.ConnectionOpenOk:
			t.Fatal("guest was let in from an address that is not loopback, by RABBIT-CR-DEMO")
		}
	}
}
