package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/broker"
)

// sessionTable reads a field table in the text form of package frame.
func sessionTable(t *testing.T, text string) frame.Table {
	t.Helper()
	args := frame.Frame(streamFrames(t, "0 connection.start-ok client-properties="+text)).Args()
	return args.Table()
}

// sessionInfo is what the broker knows of the connections to a vhost, as a list
// of Erlang's in text.
func sessionInfo(t *testing.T, n *broker.Node, vhost, keys string) string {
	t.Helper()
	info, err := n.Eval(t.Context(), fmt.Sprintf(`[I || P <- rabbit_networking:connections(), `+
		`[{vhost,<<"%s">>}|I] <- [catch rabbit_reader:info(P,[vhost,%s])]]`, vhost, keys))
	sessionMust(t, err)
	return info
}

// TestSessionServerProperties: connection.start and connection.tune are the
// broker's own, byte for byte.
func TestSessionServerProperties(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	direct, proxied := rawDial(t, rabbit.Addr()), rawDial(t, p.Addr())
	if diff := cmp.Diff(direct.greet(), proxied.greet()); diff != "" {
		t.Errorf("connection.start differs (- broker, + proxy):\n%s", diff)
	}
	direct.write(rawLogin{}.startOk())
	proxied.write(rawLogin{}.startOk())
	if diff := cmp.Diff(direct.want(frame.ConnectionTune), proxied.want(frame.ConnectionTune)); diff != "" {
		t.Errorf("connection.tune differs (- broker, + proxy):\n%s", diff)
	}
}

// TestSessionClientProperties: what a client says of itself is what the broker
// lists, its name included.
func TestSessionClientProperties(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	properties := sessionTable(t, `{product="a client" connection_name="a name" numbers=[1 -2 b:ff]`+
		` big=l:7fffffffffffffff none=V: yes=true empty=table: raw=x:00ff capabilities=table:0574777573747401}`)
	listed := func(addr string) string {
		vhost := rabbit.VHost(t)
		c := rawDial(t, addr)
		c.login(rawLogin{vhost: vhost, properties: properties})
		defer c.logout()
		return sessionInfo(t, rabbit, vhost, "user_provided_name,user,client_properties,protocol")
	}
	want, got := listed(rabbit.Addr()), listed(p.Addr())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the broker lists another client (- direct, + through the proxy):\n%s", diff)
	}
}

// sessionRefusal is a login that the broker does not let in.
type sessionRefusal struct {
	name string
	talk func(c *rawConn)
	says string // the last frame of the answer; "" if it is none
	open bool   // whether the proxy may add a connection.close where the broker is silent
}

// start greets and sends start-ok.
func (l rawLogin) start(c *rawConn) {
	c.t.Helper()
	c.greet()
	c.write(l.startOk())
}

// whole greets and sends all of a handshake, one step at a time.
func (l rawLogin) whole(c *rawConn) {
	c.t.Helper()
	l.start(c)
	c.want(frame.ConnectionTune)
	c.write(append(l.tuneOk(), l.open()...))
}

func sessionRefusals(noVHost, noAccess string) []sessionRefusal {
	amqplain := func(user, password string) string {
		return string(frame.Table{}.AppendString("LOGIN", user).AppendString("PASSWORD", password))
	}
	refused := func(mechanism string) string {
		return fmt.Sprintf("0 connection.close reply-code=403 reply-text=\"ACCESS_REFUSED - Login was refused using"+
			" authentication mechanism %s. For details see the broker logfile.\"", mechanism)
	}
	notAllowed := func(text string) string {
		return fmt.Sprintf("0 connection.close reply-code=530 reply-text=%q class-id=10 method-id=40", "NOT_ALLOWED - "+text)
	}
	return []sessionRefusal{
		{"wrong password", rawLogin{response: rawPlain("guest", "no")}.start, "", false},
		{"wrong password, capable", rawLogin{response: rawPlain("guest", "no"), properties: rawCapabilities}.start, refused("PLAIN"), false},
		{"unknown user, capable", rawLogin{response: rawPlain("nobody", "guest"), properties: rawCapabilities}.start, refused("PLAIN"), false},
		{"wrong AMQPLAIN, capable", rawLogin{mechanism: "AMQPLAIN", response: amqplain("guest", "no"), properties: rawCapabilities}.start, refused("AMQPLAIN"), false},
		{"wrong AMQPLAIN", rawLogin{mechanism: "AMQPLAIN", response: amqplain("guest", "no")}.start, "", false},
		{"unknown mechanism", rawLogin{mechanism: "NONE", properties: rawCapabilities}.start, "", false},
		{"malformed PLAIN", rawLogin{response: "guest", properties: rawCapabilities}.start, "", false},
		{"malformed AMQPLAIN", rawLogin{mechanism: "AMQPLAIN", response: "\xff\xff", properties: rawCapabilities}.start, "", false},
		{"unknown vhost", rawLogin{vhost: noVHost}.whole, notAllowed("vhost " + noVHost + " not found"), false},
		{"no access to the vhost", rawLogin{response: rawPlain("session-elsewhere", "secret"), vhost: noAccess}.whole,
			notAllowed("access to vhost '" + noAccess + "' refused for user 'session-elsewhere'"), false},
		{"tiny frame-max", rawLogin{frameMax: 100}.whole, "", true},
		{"frame-max above the broker's", rawLogin{frameMax: 131073}.whole, "", true},
		{"channel-max above the broker's", rawLogin{channelMax: 2048}.whole, "", true},
	}
}

// TestSessionRefusedLogins: a login that fails gets exactly what the broker says,
// also if that is silence, and the proxy works on.
func TestSessionRefusedLogins(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	elsewhere, noAccess := rabbit.VHost(t), rabbit.VHost(t)
	rabbit.AddUser(t, broker.User{Name: "session-elsewhere", Password: "secret", VHost: elsewhere})
	refusals := sessionRefusals("no-such-"+elsewhere, noAccess)
	type pair struct{ direct, proxied *rawConn }
	var pairs []pair
	for _, r := range refusals { // all first, since the broker takes 3 s to close
		c := pair{rawDial(t, rabbit.Addr()), rawDial(t, p.Addr())}
		r.talk(c.direct)
		r.talk(c.proxied)
		pairs = append(pairs, c)
	}
	for i, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			pairs[i].direct.t, pairs[i].proxied.t = t, t
			want, got := pairs[i].direct.rest(8*time.Second), pairs[i].proxied.rest(8*time.Second)
			if r.open && len(got) == 1 && got[0].Method() == frame.ConnectionClose {
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answers differ: the broker says %s, the proxy %s", want, got)
			}
			said := ""
			if len(got) > 0 {
				said = got[len(got)-1].String()
			}
			if said != r.says {
				t.Errorf("got  %s\nwant %s", said, r.says)
			}
		})
	}
	streamOpen(t, streamDial(t, p.URL("guest", "guest", elsewhere)))
}

// TestSessionAuthenticationFailure: amqp091-go, which has the capability, sees
// the broker's words.
func TestSessionAuthenticationFailure(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	_, want := amqp.Dial(rabbit.UserURL("guest", "no", "/"))
	_, got := amqp.Dial(p.URL("guest", "no", "/"))
	if want == nil || got == nil || got.Error() != want.Error() {
		t.Errorf("got error %v\nwant %v", got, want)
	}
}

// TestSessionMechanisms: every mechanism of the broker works, with one step and
// with two, on a broker that says other things in its tune than the default.
func TestSessionMechanisms(t *testing.T) {
	t.Parallel()
	own := broker.ForTest(t, broker.Options{Config: `auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = RABBIT-CR-DEMO
channel_max = 77
frame_max = 65536
heartbeat = 33`})
	p := sessionProxy(t, own, `policies: [{name: streams, pattern: '^stream\.', vhost: "*"}]`)
	plain := string(frame.Table{}.AppendString("LOGIN", "guest").AppendString("PASSWORD", "guest"))
	for _, tc := range []struct{ name, response, answer string }{
		{"PLAIN", rawPlain("guest", "guest"), ""},
		{"AMQPLAIN", plain, ""},
		{"RABBIT-CR-DEMO", "guest", "My password is guest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vhost := own.VHost(t)
			c := rawDial(t, p.Addr())
			l := rawLogin{mechanism: tc.name, response: tc.response, vhost: vhost, frameMax: 65536, channelMax: 77, heartbeat: 33}
			l.start(c)
			if tc.answer != "" {
				c.wantText(`0 connection.secure challenge="Please tell me your password"`)
				c.write(frame.Build(nil, 0, frame.ConnectionSecureOk).LongStr(tc.answer).End())
			}
			c.wantText("0 connection.tune channel-max=77 frame-max=65536 heartbeat=33")
			c.write(append(l.tuneOk(), l.open()...))
			c.want(frame.ConnectionOpenOk)
			want := fmt.Sprintf(`[[{user,<<"guest">>},{auth_mechanism,<<"%s">>}]]`, tc.name)
			if got := sessionInfo(t, own, vhost, "user,auth_mechanism"); got != want {
				t.Errorf("the broker lists %s, want %s", got, want)
			}
			sessionUsesStream(c)
			c.logout()
		})
	}
	t.Run("RABBIT-CR-DEMO refused", func(t *testing.T) {
		talk := func(addr string) frame.Frame {
			c := rawDial(t, addr)
			rawLogin{mechanism: "RABBIT-CR-DEMO", response: "guest", properties: rawCapabilities}.start(c)
			c.want(frame.ConnectionSecure)
			c.write(frame.Build(nil, 0, frame.ConnectionSecureOk).LongStr("My password is wrong").End())
			return c.want(frame.ConnectionClose)
		}
		if want, got := talk(own.Addr()), talk(p.Addr()); !cmp.Equal(want, got) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
	t.Run("loopback", func(t *testing.T) { sessionLoopbackTwoStep(t, own) })
}

// sessionUsesStream: whatever a client has logged in with, streams work for it;
// where the proxy would need a password that it does not know, it says so.
func sessionUsesStream(c *rawConn) {
	c.t.Helper()
	c.openChannel(1)
	c.send(`1 exchange.declare exchange="stream.a" type="direct" durable`, "1 confirm.select")
	c.want(frame.ExchangeDeclareOk)
	c.want(frame.ConfirmSelectOk)
	c.send(`1 basic.publish exchange="stream.a" routing-key="k"`, "1 header body-size=0")
	c.want(frame.BasicAck)
	c.send(`1 basic.get queue="stream.a" no-ack`)
	c.want(frame.BasicGetOk)
	c.message()
	c.send(`1 queue.declare queue="stream.a" passive`)
	got := c.next().String()
	if !strings.HasPrefix(got, `1 queue.declare-ok queue="stream.a"`) && !strings.HasPrefix(got, "1 channel.close reply-code=") ||
		strings.Contains(got, "user ''") {
		c.t.Errorf("passive declare: got %s", got)
	}
}
