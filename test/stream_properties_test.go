package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
)

// streamEveryField is a headers table with a field of every type that RabbitMQ
// knows, as frame.ParseText reads it.
const streamEveryField = `{bool=true signed-byte=b:80 byte=B:ff short=s:8000 ushort=u:ffff int=-5 uint=i:ffffffff ` +
	`long=l:8000000000000000 float=f:3f800000 double=d:400921fb54442d18 decimal=D:0200000539 text="ü\x00" empty="" ` +
	`time=T:00000000499602d2 void=V: bytes=x:00ff array=[1 "two" true [3]] table=table:0161490000000a}`

// streamEveryProperty are the 14 properties of the basic class in the order of
// their flags.
var streamEveryProperty = []string{
	`content-type="text/plain"`, `content-encoding="gzip"`, `headers=` + streamEveryField, `delivery-mode=1`, `priority=0`,
	`correlation-id="c"`, `reply-to="r"`, `expiration="600000"`, `message-id="m"`, `timestamp=1234567890`, `type="t"`,
	`user-id="guest"`, `app-id=""`, `cluster-id="cl"`,
}

// streamTwin is the same vhost seen through the proxy, where v is a stream of one
// shard, and past it, where "plain" is a queue.
type streamTwin struct {
	proxied, direct *streamWire
	v               string
}

func newStreamTwin(t *testing.T, l *streamLab, v string) *streamTwin {
	t.Helper()
	l.declare(t, v)
	if _, err := l.direct(t).QueueDeclare("plain", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	return &streamTwin{l.wire(t, 131072), streamDialWire(t, l.broker.Addr(), l.vhost, 131072), v}
}

// compare publishes each message to the stream and to the queue, and wants what
// consumers get of the one and of the other to differ in nothing but a headers
// table without entries where there was none.
func (w *streamTwin) compare(t *testing.T, properties []string) {
	t.Helper()
	w.proxied.send(`1 basic.consume queue="` + w.v + `" consumer-tag="c" no-ack`)
	w.proxied.wantMethod(frame.BasicConsumeOk)
	w.direct.send(`1 basic.consume queue="plain" consumer-tag="c" no-ack`)
	w.direct.wantMethod(frame.BasicConsumeOk)
	var up, down []string
	for i, p := range properties {
		body := fmt.Sprint("body ", i)
		up = append(up, streamPublishLines(w.v, "plain", body, p)...)
		down = append(down, streamPublishLines("", "plain", body, p)...)
	}
	sent := make(chan error, 2)
	for wire, frames := range map[*streamWire][]byte{w.proxied: streamFrames(t, up...), w.direct: streamFrames(t, down...)} {
		go func() { // ends when all is written: both sides are read below
			_, err := wire.conn.Write(frames)
			sent <- err
		}()
	}
	for i, p := range properties {
		method, header, body := w.proxied.content()
		_, want, _ := w.direct.content()
		if got := fmt.Sprint("body ", i); string(body) != got {
			t.Fatalf("message %d: got body %q", i, body)
		}
		if text := fmt.Sprintf(`exchange=%q routing-key="plain"`, w.v); !strings.Contains(method.String(), text) {
			t.Fatalf("message %d: got %s, want %s in it", i, method, text)
		}
		if want := streamWithTable(want); !bytes.Equal(header, want) {
			t.Fatalf("message with %s:\n got %s\nwant %s\n got %x\nwant %x", p, header, want, header, want)
		}
	}
	for range 2 {
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
}

// streamWithTable is a content header with a headers table without entries if it
// had none.
func streamWithTable(f frame.Frame) frame.Frame {
	h, ok := frame.ParseHeader(f)
	if !ok || h.Flags&frame.FlagHeaders != 0 {
		return f
	}
	out := append(frame.Frame{}, f[:h.TableAt]...)
	out = append(append(out, 0, 0, 0, 0), f[h.TableAt:]...)
	binary.BigEndian.PutUint32(out[3:], uint32(len(out)-frame.Overhead))
	binary.BigEndian.PutUint16(out[7+2+2+8:], h.Flags|frame.FlagHeaders)
	return out
}

// TestStreamEveryCombinationOfProperties: all 2^14 of them.
func TestStreamEveryCombinationOfProperties(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"one": "{}"})
	w := newStreamTwin(t, l, "one.a")
	var all []string
	for set := range uint(1 << len(streamEveryProperty)) {
		chosen := make([]string, 0, bits.OnesCount(set))
		for i, p := range streamEveryProperty {
			if set&(1<<i) != 0 {
				chosen = append(chosen, p)
			}
		}
		all = append(all, strings.Join(chosen, " "))
	}
	w.compare(t, all)
}

// TestStreamRoutingHeaders: what of the client's own BCC and CC, and of headers
// tables of odd shapes, arrives. "amq.direct" and the keys in them lead nowhere:
// nothing but the shard is bound to the stream's exchange.
func TestStreamRoutingHeaders(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"one": "{}"})
	w := newStreamTwin(t, l, "one.a")
	w.compare(t, []string{
		`headers={}`,
		`headers={BCC=[]}`,
		`headers={BCC=["elsewhere"]}`,
		`headers={BCC=["elsewhere" "plain2" "x"]}`,
		`headers={CC=["elsewhere"]}`,
		`headers={CC=["elsewhere"] BCC=["hidden"]}`,
		`headers={BCC=["hidden"] CC=["elsewhere"] other=1}`,
		`headers={first=1 BCC=["hidden"] last=2}`,
		`headers={bcc=["not routed by"] cc=["neither"]}`,
		`headers={BCC=["hidden"] nested=table:034243435300000001ff}`,
		`headers={a=1 a=2 a=3}`,
		`priority=9 headers={BCC=["hidden"]} cluster-id="x"`,
		`headers={x=` + fmt.Sprintf("%q", strings.Repeat("x", 60000)) + `}`,
	})
}

// TestStreamRepeatedBCC: the first BCC counts for the broker and is stripped; what
// becomes of a second is the broker's business.
func TestStreamRepeatedBCC(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"one": "{}"})
	l.declare(t, "one.a")
	w := l.wire(t, 131072)
	w.send("1 confirm.select nowait")
	w.send(streamPublishLines("one.a", "k", "twice", `headers={BCC=["one"] a=1 BCC=["two"]}`)...)
	w.wantAcks(1, 1)
	got := streamDrain(t, l.direct(t), streamShard("one.a", 0))
	if len(got) != 1 || string(got[0].Body) != "twice" {
		t.Errorf("the shard got %+v, want the message once", got)
	}
}

// TestStreamRoutingHeadersThatAreNoArrays: the broker's own 406, which closes no
// more than the channel. An array of what are no strings it takes.
func TestStreamRoutingHeadersThatAreNoArrays(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"one": "{}"})
	l.declare(t, "one.a")
	conn, plain := l.dial(t), streamDial(t, l.broker.URL(l.vhost))
	taken := 0
	for _, headers := range []amqp.Table{
		{"BCC": "string"}, {"CC": "string"}, {"BCC": int32(1)}, {"BCC": amqp.Table{"a": "b"}}, {"BCC": nil},
		{"CC": "string", "BCC": []any{"x"}}, {"CC": []any{"x"}, "BCC": "string"},
		{"BCC": []any{int32(5)}}, {"CC": []any{"x", int32(5)}}, {"CC": int32(7)},
	} {
		t.Run(fmt.Sprint(headers), func(t *testing.T) {
			other := streamOpen(t, conn)
			want := streamPublishError(t, streamOpen(t, plain), "", headers)
			got := streamPublishError(t, streamOpen(t, conn), "one.a", headers)
			if got != want {
				t.Errorf("the client hears %q, want the broker's own %q", got, want)
			}
			if !strings.HasPrefix(want, "406") {
				taken++
			}
			streamLives(t, other)
		})
	}
	if n, _ := l.shards(t, "one.a", 1); n[0] != taken || taken != 2 {
		t.Errorf("the shard has %d messages, the broker takes %d; want 2", n[0], taken)
	}
}

// streamPublishError publishes a message that is refused and gives the reason.
func streamPublishError(t *testing.T, ch *amqp.Channel, exchange string, headers amqp.Table) string {
	t.Helper()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	err := ch.PublishWithContext(t.Context(), exchange, "nowhere", false, false, amqp.Publishing{Headers: headers, Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	// The broker answers this after the publish, with the same channel.close.
	if _, err = ch.QueueDeclarePassive("no-such-queue", false, false, false, false, nil); err == nil {
		t.Fatal("there is a queue no-such-queue")
	}
	e := streamNext(t, closed, "channel.close")
	return fmt.Sprint(e.Code, " ", e.Reason)
}

// TestStreamHeadersOfALibrary: every type that amqp091-go can send, and every
// property of its own, arrive as they do without the proxy.
func TestStreamHeadersOfALibrary(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"one": "{}"})
	l.declare(t, "one.a")
	direct := l.direct(t)
	if _, err := direct.QueueDeclare("plain", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1700000000, 0)
	table := amqp.Table{
		"nil": nil, "bool": true, "byte": byte(200), "int8": int8(-8), "int16": int16(-16), "int": int32(-32), "int64": int64(-64),
		"uint16": uint16(16), "uint32": uint32(32), "float32": float32(1.5), "float64": 2.5, "string": "text", "bytes": []byte{0, 255},
		"decimal": amqp.Decimal{Scale: 2, Value: 100}, "time": when, "array": []any{int32(1), "a", amqp.Table{"x": nil}},
		"table": amqp.Table{"in": amqp.Table{"deeper": []any{true}}}, "": "empty key", strings.Repeat("k", 255): "long key",
	}
	full := amqp.Publishing{Headers: table, ContentType: "a/b", ContentEncoding: "gzip", DeliveryMode: amqp.Persistent, Priority: 7,
		CorrelationId: "c", ReplyTo: "r", Expiration: "600000", MessageId: "m", Timestamp: when, Type: "t", UserId: "guest", AppId: "a",
		Body: bytes.Repeat([]byte{0xCE, 0, 1}, 100)}
	for _, p := range []amqp.Publishing{full, {Headers: table}, {}} {
		l.publish(t, streamMessage{"one.a", "key", p})
		streamPublish(t, declareConfirming(t, l.direct(t)), streamMessage{"", "plain", p})
		got, want := streamDrain(t, l.channel(t), "one.a"), streamDrain(t, direct, "plain")
		if len(got) != 1 || len(want) != 1 {
			t.Fatalf("got %d messages of the stream and %d of the queue, want 1 and 1", len(got), len(want))
		}
		g, w := got[0], want[0]
		if g.Exchange != "one.a" || g.RoutingKey != "key" {
			t.Errorf("exchange %q and key %q, want one.a and key", g.Exchange, g.RoutingKey)
		}
		if w.Headers == nil {
			w.Headers = amqp.Table{}
		}
		g.Acknowledger, g.Exchange, g.RoutingKey, g.DeliveryTag, g.MessageCount = w.Acknowledger, w.Exchange, w.RoutingKey, w.DeliveryTag, w.MessageCount
		if !reflect.DeepEqual(g, w) {
			t.Errorf("through the proxy:\n got %+v\nwant %+v", g, w)
		}
	}
}
