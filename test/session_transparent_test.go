package test

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// sessionScript is a session of many methods, on three channels, with properties
// and arguments such as no library writes. A line with a number is where a patient
// client waits for so many frames.
const sessionScript = `
1 exchange.declare exchange="x" type="topic" durable arguments={alternate-exchange="amq.fanout" odd=[1 "two" true V: b:fe]}
1 exchange.declare exchange="x" type="topic" passive
1 exchange.declare exchange="y" type="headers" internal auto-delete nowait
1 queue.declare exclusive arguments={x-max-length=9 x-overflow="drop-head"}
3
1 queue.bind exchange="x" routing-key="a.#"
1 queue.declare queue="q" exclusive auto-delete
1 queue.bind queue="q" exchange="x" routing-key="b.*" nowait
1 exchange.bind destination="amq.topic" source="x" routing-key="c"
1 exchange.unbind destination="amq.topic" source="x" routing-key="c"
1 confirm.select
5
1 basic.publish exchange="x" routing-key="b.1" mandatory
1 header body-size=5 content-type="text/plain" content-encoding="" headers={n=-5 list=[1 "x" table:] deep=table:016b53000000016e empty=table: t=T:00000000499602d2 f=f:3f800000 d=d:4009000000000000 z=0 twice="a" twice="b"} delivery-mode=2 priority=0 correlation-id="id" reply-to="q" expiration="3600000" message-id="" timestamp=1234567890 type="t" user-id="guest" app-id="a" cluster-id="c"
1 body "hello"
1
1 basic.publish exchange="x" routing-key="b.2"
1 header body-size=0 headers={}
1
1 basic.publish exchange="x" routing-key="b.3"
1 header body-size=6
1 body "t"
1 body "hr"
1 body "ee!"
1
1 basic.publish exchange="amq.direct" routing-key="nowhere" mandatory
1 header body-size=4 priority=9
1 body "back"
4
2 channel.open
2 queue.declare queue="p" exclusive
2
1 basic.publish routing-key="q"
2 basic.publish routing-key="p"
1 header body-size=9
2 header body-size=8 type="between"
1 body "inter"
2 body "le"
0 heartbeat
2 body "aved-2"
1 body "ed-1"
1
2 basic.get queue="p" no-ack
3
1 basic.get queue="q"
3
1 basic.get queue="q"
2
1 basic.ack delivery-tag=1
1 basic.reject delivery-tag=2 requeue
1 basic.qos prefetch-count=10 global
1 basic.consume queue="q" consumer-tag="mine" arguments={x-priority=5}
10
1 basic.nack delivery-tag=4 multiple requeue=0
1 basic.recover requeue
4
1 basic.cancel consumer-tag="mine"
1
2 channel.flow active
2 basic.consume queue="p"
2
2 queue.purge queue="p"
2 basic.get queue="p"
2
2 queue.delete queue="p"
2
1 queue.unbind queue="q" exchange="x" routing-key="b.*"
1 queue.delete queue="q"
1 exchange.delete exchange="x"
3
`

// sessionPatientScript is what follows of a patient client: RabbitMQ takes nothing
// while it commits, and a channel.close-ok must not come before the channel.close.
// It ends with an error.
const sessionPatientScript = `
4 channel.open
4 tx.select
4 queue.declare queue="tx" exclusive
3
4 basic.publish routing-key="tx"
4 header body-size=1
4 body "1"
4 tx.commit
1
4 basic.publish routing-key="tx"
4 header body-size=1
4 body "2"
4 tx.rollback
1
4 basic.get queue="tx" no-ack
3
3 channel.open
1
3 queue.declare queue="missing" passive
1
3 basic.publish routing-key="ignored"
3 header body-size=1
3 body "x"
3 channel.close-ok
3 channel.open
1
3 channel.close reply-code=200 reply-text="done" class-id=1 method-id=2
1
3 basic.qos
`

// sessionRecorder keeps what a client sends and receives.
type sessionRecorder struct {
	net.Conn
	sent, received bytes.Buffer
}

func (r *sessionRecorder) Write(b []byte) (int, error) {
	r.sent.Write(b)
	return r.Conn.Write(b)
}

func (r *sessionRecorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.received.Write(b[:n])
	return n, err
}

// sessionPlay logs in and plays the script, in writes that cut makes of each part
// or, for a client that is not patient, of the whole. It returns all answers, the
// end of the connection included.
func sessionPlay(c *rawConn, vhost string, patient bool, cut func(b []byte) [][]byte) (answers []frame.Frame) {
	c.t.Helper()
	c.login(rawLogin{vhost: vhost, properties: frame.Table{}.AppendTable("capabilities",
		frame.Table{}.AppendFlag("consumer_cancel_notify", true))})
	var part []byte
	flush := func() {
		for _, piece := range cut(part) {
			c.write(piece)
		}
		part = nil
	}
	script := sessionScript + "0 connection.close reply-code=200"
	if patient {
		script = sessionScript + sessionPatientScript
	}
	for _, line := range strings.Split(script, "\n") {
		if line == "" {
			continue
		}
		count, err := strconv.Atoi(line)
		switch {
		case err != nil:
			part = append(part, streamFrames(c.t, line)...)
		case patient:
			flush()
			for range count {
				answers = append(answers, c.next())
			}
		}
	}
	flush()
	for {
		f := c.next()
		answers = append(answers, f)
		if m := f.Method(); f.Type() == frame.TypeMethod && (m == frame.ConnectionClose || m == frame.ConnectionCloseOk) {
			return answers
		}
	}
}

func sessionWhole(b []byte) [][]byte { return [][]byte{b} }

func sessionOctets(b []byte) (pieces [][]byte) {
	for i := range b {
		pieces = append(pieces, b[i:i+1])
	}
	return pieces
}

// sessionNormal is a frame with names that a server makes and that of the vhost
// replaced by others of the same length.
func sessionNormal(f frame.Frame, vhost string) string {
	f = regexp.MustCompile(`amq\.(gen|ctag)-[A-Za-z0-9_-]{22}`).ReplaceAllFunc(f, func(name []byte) []byte {
		return append(name[:8:8], bytes.Repeat([]byte{'?'}, len(name)-8)...)
	})
	f = bytes.ReplaceAll(f, []byte(vhost), bytes.Repeat([]byte{'V'}, len(vhost)))
	return f.String() + fmt.Sprintf(" [% x]", []byte(f))
}

// TestSessionTransparent: octet for octet, the broker receives what the client
// sends and the client what the broker sends, however it is cut into packets; and
// the answers are those of a direct connection.
func TestSessionTransparent(t *testing.T) {
	t.Parallel()
	p, tap := sessionTapped(t, rabbit, `policies: [{name: others, pattern: '^stream\.', vhost: "*"}]`)
	for _, tc := range []struct {
		name    string
		patient bool
		cut     func([]byte) [][]byte
		last    string
	}{
		{"a part at a time", true, sessionWhole, "0 connection.close reply-code=504"},
		{"one packet", false, sessionWhole, "0 connection.close-ok"},
		{"one octet at a time", false, sessionOctets, "0 connection.close-ok"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vhost := rabbit.VHost(t)
			c := rawDial(t, p.Addr())
			recorder := &sessionRecorder{Conn: c.Conn}
			c.Conn = recorder
			answers := sessionPlay(c, vhost, tc.patient, tc.cut)
			if got := answers[len(answers)-1].String(); !strings.HasPrefix(got, tc.last) {
				t.Fatalf("the script ended with %s, want %s", got, tc.last)
			}
			daemon.Eventually(t, streamPatience, func() error {
				sent, received, err := tap.find(vhost)
				if err == nil {
					heard := bytes.ReplaceAll(recorder.sent.Bytes(), frame.Heartbeat, nil) // those end at the proxy
					err = sessionSame(sent, heard)
				}
				if err == nil {
					err = sessionSame(recorder.received.Bytes(), received)
				}
				return err
			})
			if !tc.patient {
				return
			}
			var got, want []string
			for _, f := range answers {
				got = append(got, sessionNormal(f, vhost))
			}
			vhost = rabbit.VHost(t)
			for _, f := range sessionPlay(rawDial(t, rabbit.Addr()), vhost, true, sessionWhole) {
				want = append(want, sessionNormal(f, vhost))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answers differ (- direct, + through the proxy):\n%s", diff)
			}
		})
	}
}
