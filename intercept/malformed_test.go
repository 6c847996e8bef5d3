package intercept

import (
	"bytes"
	"encoding/binary"
	"testing"

	"amqproxy/frame"
	"amqproxy/shard"
)

// TestTruncatedMethodsGoThrough: a method that breaks off anywhere is none that
// the proxy may act on, not even if the stream's name is still in it. The broker
// knows what to say to it.
func TestTruncatedMethodsGoThrough(t *testing.T) {
	var snap snapshot
	snap.init()
	snap.add("stream", "shard.a", options{"queue-declare": "answer", "queue-bind": "accept-own", "queue-purge": "all", "queue-delete": "all"})
	for _, whole := range []string{
		`basic.publish exchange="shard.a" routing-key="k"`,
		`basic.publish routing-key="shard.a"`,
		`basic.consume queue="shard.a" consumer-tag="c" arguments={a="x"}`,
		`basic.get queue="shard.a"`,
		`exchange.declare exchange="shard.a" type="topic" durable arguments={a="x"}`,
		`exchange.delete exchange="shard.a"`,
		`exchange.bind destination="shard.a" source="e" routing-key="k" arguments={a="x"}`,
		`queue.declare queue="shard.a" passive arguments={a="x"}`,
		`queue.bind queue="shard.a" exchange="shard.a" routing-key="k" arguments={a="x"}`,
		`queue.unbind queue="shard.a" exchange="shard.a" routing-key="k" arguments={a="x"}`,
		`queue.purge queue="shard.a"`,
		`queue.delete queue="shard.a"`,
	} {
		f := text("1 %s", whole)
		for left := 4; left < len(f.Payload()); left++ {
			conn, out := New(Config{VHost: "/", FrameMax: 131072, Seed: 1}, snap.make(), &shard.Counters{}), Out{}
			if conn.FromClient(text("1 channel.open"), &out) != nil || conn.FromHome(text("1 channel.open-ok"), &out) != nil {
				t.Fatal("no channel")
			}
			out.Reset()
			cut := append(bytes.Clone(f[:7+left]), 0xCE)
			binary.BigEndian.PutUint32(cut[3:], uint32(left))
			if err := conn.FromClient(frame.Frame(cut), &out); err != nil {
				t.Fatal(err)
			}
			if got := out.Home.AppendTo(nil); !bytes.Equal(got, cut) || out.Client.Len() > 0 || len(out.Errands) > 0 {
				t.Errorf("%s, cut to %d octets: %d errands, and to the broker\n got %x\nwant %x", whole, left, len(out.Errands), got, cut)
			}
		}
	}
}
