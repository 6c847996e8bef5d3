package test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
)

// TestStreamOnceEach: a message with routing keys of its own in CC and BCC is in
// its shard, and in no other, exactly once.
func TestStreamOnceEach(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"once": "{shards-per-node: 4}"})
	const v = "once.a"
	l.declare(t, v)
	if _, err := l.direct(t).QueueDeclare("elsewhere", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	keys := streamKeys("k", 100)
	l.publish(t, streamKeyed(v, keys...)...)
	want := l.drainShards(t, v, 4)
	for name, headers := range map[string]amqp.Table{
		"CC":         {"CC": []any{"elsewhere", "x"}},
		"BCC":        {"BCC": []any{"elsewhere", "x"}},
		"CC and BCC": {"CC": []any{"elsewhere"}, "BCC": []any{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var messages []streamMessage
			for _, m := range streamKeyed(v, keys...) {
				m.Headers = headers
				messages = append(messages, m)
			}
			l.publish(t, messages...)
			got := l.drainShards(t, v, 4) // fails for a message that is in two
			if len(got) != len(keys) {
				t.Errorf("the shards hold %d messages, want %d", len(got), len(keys))
			}
			for key, shard := range want {
				if got[key] != shard {
					t.Errorf("key %s is in shard %d, want %d as without headers", key, got[key], shard)
				}
			}
		})
	}
	if q, err := l.direct(t).QueueDeclarePassive("elsewhere", true, false, false, false, nil); err != nil || q.Messages != 0 {
		t.Errorf("a queue that is not bound to the stream has %d messages (%v), want none", q.Messages, err)
	}
}

// TestStreamHugeHeaders: a content header is one frame. One that leaves room for
// the route to the shard works; one that doesn't is refused, on its channel only.
func TestStreamHugeHeaders(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"huge": "{}"})
	const v = "huge.a"
	l.declare(t, v)
	// What the proxy adds: a string to the array BCC, and the array if there is none.
	inArray := 1 + 4 + len("amqproxy:"+streamShard(v, 0))
	asArray := 1 + len("BCC") + 1 + 4 + inArray
	for _, frameMax := range []int{frame.MinMax, 131072} {
		for _, c := range []struct {
			name, headers string
			free          int // octets of frame_max that the client's own frame leaves free
			fits          bool
		}{
			{"far", "{x=%q}", 2 * asArray, true},
			{"just", "{x=%q}", asArray, true},
			{"not quite", "{x=%q}", asArray - 9, false}, // RabbitMQ itself takes 8 octets too many
			{"full", "{x=%q}", 0, false},
			{"just with a BCC", `{BCC=["a"] x=%q}`, inArray, true},
			{"not quite with a BCC", `{BCC=["a"] x=%q}`, inArray - 9, false},
		} {
			t.Run(fmt.Sprint(c.name, " of ", frameMax), func(t *testing.T) {
				w := l.wire(t, frameMax)
				w.open(2)
				w.send("1 confirm.select nowait", "2 confirm.select nowait")
				lines := streamHeaderOf(t, v, c.headers, frameMax-c.free)
				if c.fits {
					w.send(lines...)
					w.wantAcks(1, 1)
				} else {
					// The message before it is confirmed, what follows it is swallowed.
					w.send(append(append(streamPublishLines(v, "k", "huge headers"), lines...), streamPublishLines(v, "k", "swallowed")...)...)
					w.wantAcks(1, 1)
					w.want(`1 channel.close reply-code=406 reply-text="PRECONDITION_FAILED`)
					w.send("1 channel.close-ok")
				}
				w.send(strings.Split(strings.ReplaceAll(strings.Join(streamPublishLines(v, "k", "another"), "\n"), "1 ", "2 "), "\n")...)
				w.wantAcks(2, 1)
				got := streamBodies(streamDrain(t, l.direct(t), streamShard(v, 0)))
				if want := []string{"another", "huge headers"}; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the shard got %q, want %q", got, want)
				}
			})
		}
	}
}

// streamHeaderOf is a message whose content header is a frame of this size, with
// what fills it up in its headers.
func streamHeaderOf(t *testing.T, v, headers string, size int) []string {
	t.Helper()
	for fill := size; fill > 0; fill-- {
		lines := streamPublishLines(v, "k", "huge headers", "headers="+fmt.Sprintf(headers, strings.Repeat("x", fill)))
		if f := streamFrames(t, lines[1]); len(f) == size {
			return lines
		} else if len(f) > size+1 {
			fill -= len(f) - size - 1
		}
	}
	t.Fatalf("no header frame has %d octets", size)
	return nil
}

// TestStreamConfirms: 10,000 publishes are all confirmed and all consumable.
func TestStreamConfirms(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"conf": "{shards-per-node: 3}"})
	const v, count = "conf.a", 10000
	l.declare(t, v)
	l.publish(t, streamKeyed(v, streamKeys("k", count)...)...)
	ch := l.channel(t)
	all := make(chan string, count)
	for range 3 {
		from, err := ch.Consume(v, "", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() { // ends with the connection
			for d := range from {
				all <- string(d.Body)
			}
		}()
	}
	got := map[string]bool{}
	for range count {
		got[streamNext(t, all, "delivery")] = true
	}
	if len(got) != count {
		t.Errorf("%d different messages were delivered, want %d", len(got), count)
	}
}

// TestStreamBodySizes: bodies of no frame, of one, of several and of many.
func TestStreamBodySizes(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"size": "{}"})
	const v, frameMax = "size.a", 131072
	l.declare(t, v)
	const whole = frameMax - frame.Overhead
	sizes := []int{0, 1, whole - 1, whole, whole + 1, 2*whole - 1, 2 * whole, 2*whole + 1, 10 << 20, 3, 0}
	ch := l.channel(t)
	streamConfirm(t, ch)
	deliveries, err := l.channel(t).Consume(v, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := func(size int) []byte { return bytes.Repeat([]byte{1, 0xCE, 3, byte(size), 5}, size/5+1)[:size] }
	for _, size := range sizes {
		streamPublish(t, ch, streamMessage{v, "k", amqp.Publishing{Headers: amqp.Table{"size": int64(size)}, Body: body(size)}})
	}
	for _, size := range sizes {
		d := streamNext(t, deliveries, fmt.Sprint("delivery of ", size, " octets"))
		if d.Headers["size"] != int64(size) || sha256.Sum256(d.Body) != sha256.Sum256(body(size)) {
			t.Errorf("got %d octets with headers %v, want the body of %d octets unchanged", len(d.Body), d.Headers, size)
		}
	}
}
