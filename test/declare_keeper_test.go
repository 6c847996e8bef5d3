package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
	"amqproxy/test/daemon"
)

// declareFailing is a keeper that can't do its work, and what makes it able to.
type declareFailing struct {
	name string
	user broker.User // at first; not there if it has no name
	says []string
	fix  broker.User
}

// declareFailures are the cases for the keeper's user "keeper-NAME" with password
// "right".
func declareFailures(vhost, elsewhere string) []declareFailing {
	able := func(name string) broker.User {
		return broker.User{Name: "keeper-" + name, Password: "right", VHost: vhost, Configure: ".*", Write: ".*", Read: ".*"}
	}
	wrong, away, weak, unbinding := able("wrong"), able("away"), able("weak"), able("unbinding")
	wrong.Password = "wrong"
	away.VHost = elsewhere
	weak.Configure = "^no such queue"
	unbinding.Write = "^no such queue"
	return []declareFailing{
		{"nobody", broker.User{}, []string{"keeper-nobody"}, able("nobody")},
		{"wrong", wrong, []string{"keeper-wrong"}, able("wrong")},
		{"away", away, []string{"keeper-away", vhost}, able("away")},
		{"weak", weak, []string{"keeper-weak"}, able("weak")},
		{"unbinding", unbinding, []string{"keeper-unbinding"}, able("unbinding")},
	}
}

// TestDeclareWhatTheKeeperCannotDo: whoever declares hears why, the log says it,
// and it is tried again until it works.
func TestDeclareWhatTheKeeperCannotDo(t *testing.T) {
	t.Parallel()
	elsewhere := rabbit.VHost(t)
	definitions := map[string]string{}
	for _, c := range declareFailures("", "") {
		definitions[c.name] = fmt.Sprintf("{shards-per-node: 2, local-username: keeper-%s, local-password: right}", c.name)
	}
	l := startStreams(t, definitions)
	conn := l.dial(t)
	for _, c := range declareFailures(l.vhost, elsewhere) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.user.Name != "" {
				rabbit.AddUser(t, c.user)
			}
			v := c.name + ".a"
			other := streamOpen(t, conn)
			err := declareRequest{kind: "topic"}.on(streamOpen(t, conn), v)
			t.Log("the declarer heard:", err)
			streamWantError(t, err, amqp.PreconditionFailed, append(c.says, v)...)
			streamLives(t, other)
			daemon.Eventually(t, streamPatience, func() error { // the line comes by a pipe of its own
				if l.logged("error", v, c.says[0]) == "" {
					return fmt.Errorf("no error in the log names %s and %s", v, c.says[0])
				}
				return nil
			})
			if state := l.state(t, v); state == "ready" || state == "unknown" {
				t.Errorf("/api/v1/streams says %q, want a state that says it failed", state)
			}
			rabbit.AddUser(t, c.fix)
			daemon.Eventually(t, streamPatience, func() error {
				if state := l.state(t, v); state != "ready" {
					return fmt.Errorf("the keeper's user was made able, and %s is still %q", v, state)
				}
				return nil
			})
			streamDeclare(t, streamOpen(t, conn), v, "topic")
			l.publish(t, streamKeyed(v, streamKeys("k", 20)...)...)
			if where := l.drainShards(t, v, 2); len(where) != 20 {
				t.Errorf("the shards hold %d messages, want 20", len(where))
			}
		})
	}
}

// TestDeclareForeignExchange: an exchange that was made past the proxy and can't
// be used.
func TestDeclareForeignExchange(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"foreign": "{}"})
	conn := l.dial(t)
	direct := l.direct(t)
	for v, there := range map[string]declareRequest{
		"foreign.topic":     {kind: "topic"},
		"foreign.fanout":    {kind: "fanout"},
		"foreign.transient": {kind: "direct", transient: true},
		"foreign.internal":  {kind: "direct", internal: true},
	} {
		if err := there.on(direct, v); err != nil {
			t.Fatal(err)
		}
		t.Run(v, func(t *testing.T) {
			declareRefused(t, conn, v, declareRequest{kind: "topic"}, amqp.PreconditionFailed, v, "delete")
			// Done as told, it works.
			if err := streamOpen(t, conn).ExchangeDelete(v, false, false); err != nil {
				t.Fatal(err)
			}
			streamDeclare(t, streamOpen(t, conn), v, "topic")
			l.publish(t, streamKeyed(v, "k")...)
		})
	}
}

// TestDeclarePluginsExchange: an exchange and its queues that the sharding plugin
// made, on a broker that has the plugin.
func TestDeclarePluginsExchange(t *testing.T) {
	t.Parallel()
	n := broker.ForTest(t, broker.Options{Plugins: []string{"rabbitmq_sharding"}})
	vhost := n.VHost(t)
	l := startStreamsOn(t, n, vhost, map[string]string{"plugin": "{shards-per-node: 2}"})
	const v = "plugin.a"
	streamDeclare(t, l.direct(t), v, "x-modulus-hash")
	conn := l.dial(t)
	declareRefused(t, conn, v, declareRequest{kind: "x-modulus-hash"}, amqp.PreconditionFailed, v, "delete")
	if err := streamOpen(t, conn).ExchangeDelete(v, false, false); err != nil {
		t.Fatal(err)
	}
	streamDeclare(t, streamOpen(t, conn), v, "x-modulus-hash")
	l.publish(t, streamKeyed(v, streamKeys("k", 20)...)...)
	if where := l.drainShards(t, v, 2); len(where) != 20 {
		t.Errorf("the shards hold %d messages, want 20", len(where))
	}
}

// TestDeclareUnsafe: something on the broker takes the messages that no shard is
// for, so that a lost shard would go unnoticed.
func TestDeclareUnsafe(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"unsafe": "{shards-per-node: 2}"})
	direct := l.direct(t)
	if _, err := direct.QueueDeclare("swallow", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := direct.QueueBind("swallow", "", "amq.fanout", false, nil); err != nil {
		t.Fatal(err)
	}
	declareBrokerPolicy(t, l, "set_policy", "swallow", `^unsafe\.`, `{"alternate-exchange": "amq.fanout"}`)
	conn := l.dial(t)
	const v = "unsafe.a"
	err := declareRequest{kind: "direct"}.on(streamOpen(t, conn), v)
	t.Log("the declarer heard:", err)
	streamWantError(t, err, amqp.PreconditionFailed, v)
	if !strings.Contains(err.Error(), "alternate") && !strings.Contains(err.Error(), "unsafe") {
		t.Errorf("the error is %v, want it to say that the stream is unsafe, and why", err)
	}
	streamLives(t, streamOpen(t, conn))
	daemon.Eventually(t, streamPatience, func() error {
		if l.logged("error", v) == "" {
			return fmt.Errorf("no error in the log names %s", v)
		}
		return nil
	})
	if state := l.state(t, v); state == "ready" {
		t.Errorf("/api/v1/streams says %q of an unsafe stream", state)
	}
	declareBrokerPolicy(t, l, "clear_policy", "swallow")
	daemon.Eventually(t, streamPatience, func() error {
		if state := l.state(t, v); state != "ready" {
			return fmt.Errorf("the alternate exchange is gone, and %s is still %q", v, state)
		}
		return nil
	})
	streamDeclare(t, streamOpen(t, conn), v, "direct")
}

func declareBrokerPolicy(t *testing.T, l *streamLab, command string, args ...string) {
	t.Helper()
	if _, err := l.broker.Ctl(t.Context(), append([]string{command, "-p", l.vhost}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// TestDeclareIsBounded: a keeper that gets no answer doesn't hold a client for
// ever.
func TestDeclareIsBounded(t *testing.T) {
	t.Parallel()
	definition := "{local-username: keeper-bounded, local-password: wrong}"
	l := startStreams(t, map[string]string{"bounded": definition}, "limits: {declare-timeout: 500ms}")
	conn := l.dial(t)
	other := streamOpen(t, conn)
	begun := time.Now()
	// The broker takes 3 s to refuse a login.
	err := declareRequest{kind: "direct"}.on(streamOpen(t, conn), "bounded.a")
	took := time.Since(begun)
	streamWantError(t, err, amqp.PreconditionFailed, "bounded.a")
	if took < 400*time.Millisecond || took > 2500*time.Millisecond {
		t.Errorf("the declare was answered after %s, want declare-timeout, 500ms", took)
	}
	streamLives(t, other)
}
