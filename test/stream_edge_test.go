package test

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// TestStreamConfirmNumbers: a channel's confirms count from its confirm.select,
// publishes to streams and to others alike.
func TestStreamConfirmNumbers(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"num": "{shards-per-node: 3}"})
	const v = "num.a"
	l.declare(t, v)
	if _, err := l.direct(t).QueueDeclare("ordinary", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	w := l.wire(t, 131072)
	var lines []string
	for i := range 5 {
		lines = append(lines, streamPublishLines(v, fmt.Sprint(i), fmt.Sprint("before ", i))...)
	}
	lines = append(lines, "1 confirm.select nowait")
	for i := range 30 {
		lines = append(lines, streamPublishLines(v, fmt.Sprint(i), fmt.Sprint("stream ", i))...)
		lines = append(lines, streamPublishLines("", "ordinary", fmt.Sprint("ordinary ", i))...)
		lines = append(lines, streamPublishLines("amq.direct", "nowhere", "")...)
	}
	w.send(lines...)
	w.wantAcks(1, 90)
	if where := l.drainShards(t, v, 3); len(where) != 35 {
		t.Errorf("the shards hold %d messages, want 35", len(where))
	}
	if got := streamDrain(t, l.direct(t), "ordinary"); len(got) != 30 {
		t.Errorf("the ordinary queue holds %d messages, want 30", len(got))
	}
}

// TestStreamInPieces: where the client's writes begin and end changes nothing.
func TestStreamInPieces(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"piece": "{shards-per-node: 3}"})
	const v = "piece.a"
	l.declare(t, v)
	for _, size := range []int{1, 7, 100} {
		w := l.wire(t, 131072)
		lines := []string{"1 confirm.select nowait"}
		for i := range 20 {
			lines = append(lines, fmt.Sprintf("1 basic.publish exchange=%q routing-key=%q", v, fmt.Sprint("k", i)),
				`1 header body-size=6 headers={a=1 BCC=["x"]} priority=3`, `1 body "ab"`, `1 body ""`, fmt.Sprintf(`1 body "%04d"`, i))
		}
		frames := streamFrames(t, lines...)
		for len(frames) > 0 {
			n := min(size, len(frames))
			w.write(frames[:n])
			frames = frames[n:]
		}
		w.wantAcks(1, 20)
		where := l.drainShards(t, v, 3)
		for i := range 20 {
			if _, ok := where[fmt.Sprintf("ab%04d", i)]; !ok || len(where) != 20 {
				t.Errorf("writes of %d octets: the shards hold %v, want ab0000 to ab0019", size, where)
				break
			}
		}
	}
}

// TestStreamInterleavedChannels: messages of several channels, and of streams and
// others, frame by frame between each other.
func TestStreamInterleavedChannels(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"mix": "{shards-per-node: 3}"})
	const v, channels, rounds = "mix.a", 8, 20
	l.declare(t, v)
	if _, err := l.direct(t).QueueDeclare("ordinary", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	w := l.wire(t, 131072)
	for ch := 2; ch <= channels; ch++ {
		w.open(ch)
	}
	var lines []string
	for ch := 1; ch <= channels; ch++ {
		lines = append(lines, fmt.Sprint(ch, " confirm.select nowait"))
	}
	for round := range rounds {
		var parts [4][]string
		for ch := 1; ch <= channels; ch++ {
			exchange, key := v, fmt.Sprint("k", round*channels+ch)
			if (round+ch)%4 == 0 {
				exchange, key = "", "ordinary"
			}
			body := fmt.Sprintf("%02d%02d", round, ch)
			for i, line := range []string{
				fmt.Sprintf("%d basic.publish exchange=%q routing-key=%q", ch, exchange, key),
				fmt.Sprintf("%d header body-size=4 message-id=%q", ch, body),
				fmt.Sprintf("%d body %q", ch, body[:2]), fmt.Sprintf("%d body %q", ch, body[2:]),
			} {
				parts[i] = append(parts[i], line)
			}
		}
		for _, part := range parts {
			lines = append(lines, part...)
		}
	}
	w.send(lines...)
	got := map[string]bool{}
	daemon.Eventually(t, streamPatience, func() error {
		deliveries := streamDrain(t, l.channel(t), v)
		for _, d := range append(deliveries, streamDrain(t, l.channel(t), "ordinary")...) {
			got[string(d.Body)] = string(d.Body) == d.MessageId
		}
		if len(got) < channels*rounds {
			return fmt.Errorf("%d messages came, want %d", len(got), channels*rounds)
		}
		return nil
	})
	for body, whole := range got {
		if !whole {
			t.Errorf("message %q has the properties of another", body)
		}
	}
}

// TestStreamCutContent: a client that goes away in the middle of a message leaves
// nothing of it, and nothing of it disturbs others.
func TestStreamCutContent(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"cut": "{}"})
	const v = "cut.a"
	l.declare(t, v)
	whole := streamPublishLines(v, "k", "cut")
	for keep := 1; keep < len(whole); keep++ {
		w := l.wire(t, 131072)
		w.send(append(streamPublishLines(v, "k", fmt.Sprint("whole ", keep)), whole[:keep]...)...)
		streamMust(t, w.conn.Close())
	}
	got := map[string]int{}
	daemon.Eventually(t, streamPatience, func() error {
		for body := range l.drainShards(t, v, 1) {
			got[body]++
		}
		if len(got) < len(whole)-1 {
			return fmt.Errorf("got %v, want the whole messages", got)
		}
		return nil
	})
	if got["cut"] != 0 {
		t.Errorf("got %v, want the whole messages only", got)
	}
}

// TestStreamTransactions: with one broker the broker's own transactions hold.
func TestStreamTransactions(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"tx": "{shards-per-node: 3}"})
	const v = "tx.a"
	l.declare(t, v)
	ch := l.channel(t)
	streamMust(t, ch.Tx())
	for round, end := range []func() error{ch.TxRollback, ch.TxCommit} {
		for _, m := range streamKeyed(v, streamKeys(fmt.Sprint("round", round), 10)...) {
			streamMust(t, ch.PublishWithContext(t.Context(), m.exchange, m.key, false, false, m.Publishing))
		}
		if where := l.drainShards(t, v, 3); len(where) != 0 {
			t.Errorf("before the end of the transaction the shards hold %v", where)
		}
		streamMust(t, end())
	}
	if where := l.drainShards(t, v, 3); len(where) != 10 {
		t.Errorf("after a rollback of 10 and a commit of 10 messages the shards hold %v, want 10", where)
	}
}

// TestStreamBrokersOwnErrors: what the broker minds about a message to a stream is
// said as it says it.
func TestStreamBrokersOwnErrors(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"err": "{}"})
	const v = "err.a"
	l.declare(t, v)
	t.Run("user-id", func(t *testing.T) {
		ch := l.channel(t)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		streamMust(t, ch.PublishWithContext(t.Context(), v, "k", false, false, amqp.Publishing{UserId: "another"}))
		streamWantClosed(t, closed, amqp.PreconditionFailed, "user_id property set to 'another'")
	})
	t.Run("expiration", func(t *testing.T) {
		ch := l.channel(t)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		streamMust(t, ch.PublishWithContext(t.Context(), v, "k", false, false, amqp.Publishing{Expiration: "soon"}))
		streamWantClosed(t, closed, amqp.PreconditionFailed, "invalid expiration")
	})
	t.Run("immediate", func(t *testing.T) {
		w := l.wire(t, 131072)
		w.send(fmt.Sprintf("1 basic.publish exchange=%q routing-key=\"k\" immediate", v), "1 header body-size=1", `1 body "x"`)
		w.want("0 connection.close reply-code=540")
	})
	t.Run("recover without requeue", func(t *testing.T) {
		w := l.wire(t, 131072)
		w.send(fmt.Sprintf("1 basic.consume queue=%q", v))
		w.want("1 basic.consume-ok")
		w.send("1 basic.recover")
		w.want("0 connection.close reply-code=540")
	})
	if n, _ := l.shards(t, v, 1); n[0] != 0 {
		t.Errorf("the shard holds %d messages, want none", n[0])
	}
}

// TestStreamCloseAfterPublishes: a client's channel.close behind its publishes in
// one write.
func TestStreamCloseAfterPublishes(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"close": "{shards-per-node: 3}"})
	const v, count = "close.a", 500
	l.declare(t, v)
	for _, last := range []string{"1 channel.close reply-code=200", "0 connection.close reply-code=200"} {
		w := l.wire(t, 131072)
		var lines []string
		for i := range count {
			lines = append(lines, streamPublishLines(v, fmt.Sprint("k", i), fmt.Sprint(i))...)
		}
		w.send(append(lines, last)...)
		if f := w.next(); f.Method() != frame.ChannelCloseOk && f.Method() != frame.ConnectionCloseOk {
			t.Errorf("after %s: got %s, want close-ok", last, f)
		}
		found := map[string]int{}
		daemon.Eventually(t, streamPatience, func() error {
			for body, shard := range l.drainShards(t, v, 3) {
				found[body] = shard
			}
			if len(found) != count {
				return fmt.Errorf("after %s: the shards held %d messages, want %d", last, len(found), count)
			}
			return nil
		})
	}
}

// TestStreamShardDeletedUnderConsumer: the client hears of it with its own tag, as
// of any queue's end.
func TestStreamShardDeletedUnderConsumer(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"under": "{}"})
	const v = "under.a"
	l.declare(t, v)
	ch := l.channel(t)
	cancels := ch.NotifyCancel(make(chan string, 1))
	from := streamConsume(t, ch, v, "mine")
	if _, err := l.direct(t).QueueDelete(streamShard(v, 0), false, false, false); err != nil {
		t.Fatal(err)
	}
	if tag := streamNext(t, cancels, "basic.cancel"); tag != "mine" {
		t.Errorf("basic.cancel is for %q, want the client's own tag", tag)
	}
	if d, open := <-from; open {
		t.Errorf("got %q of a cancelled consumer", d.Body)
	}
	l.declare(t, v)
	streamConsume(t, ch, v, "mine") // the tag is free again
	l.wantConsumers(t, v, 1)
}

// TestStreamDeadLetters: what a shard dead-letters keeps its route. An exchange
// that is the stream itself brings it back to its shard; another sees the shard's
// key as one more.
func TestStreamDeadLetters(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{
		"back":  "{shards-per-node: 3, queue-arguments: {x-dead-letter-exchange: back.a}}",
		"other": "{shards-per-node: 3, queue-arguments: {x-dead-letter-exchange: amq.direct}}",
	})
	t.Run("to itself", func(t *testing.T) {
		l.declare(t, "back.a")
		keys := streamKeys("k", 30)
		l.publish(t, streamKeyed("back.a", keys...)...)
		want, ch := map[string]int{}, l.direct(t)
		for i := range 3 {
			n, _ := l.shards(t, "back.a", 3)
			for range n[i] {
				d, ok, err := ch.Get(streamShard("back.a", i), false)
				if err != nil || !ok {
					t.Fatalf("get: %v, %v", ok, err)
				}
				want[string(d.Body)] = i
				streamMust(t, d.Reject(false))
			}
		}
		daemon.Eventually(t, streamPatience, func() error {
			if n, _ := l.shards(t, "back.a", 3); n[0]+n[1]+n[2] != len(keys) {
				return fmt.Errorf("the shards hold %v, want %d messages", n, len(keys))
			}
			return nil
		})
		for body, shard := range l.drainShards(t, "back.a", 3) {
			if want[body] != shard {
				t.Errorf("%s came back to shard %d, want %d", body, shard, want[body])
			}
		}
	})
	t.Run("to another exchange", func(t *testing.T) {
		const v = "other.a"
		l.declare(t, v)
		ch := l.direct(t)
		for _, key := range []string{"k", "amqproxy:" + streamShard(v, 0), "amqproxy:" + streamShard(v, 1), "amqproxy:" + streamShard(v, 2)} {
			if _, err := ch.QueueDeclare("dead "+key, true, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
			streamMust(t, ch.QueueBind("dead "+key, key, "amq.direct", false, nil))
		}
		l.publish(t, streamKeyed(v, "k")...)
		proxied := l.channel(t)
		d, ok, err := proxied.Get(v, false)
		if err != nil || !ok {
			t.Fatalf("get: %v, %v", ok, err)
		}
		streamMust(t, d.Reject(false))
		daemon.Eventually(t, streamPatience, func() error {
			byKey, byShard := 0, 0
			for queue, count := range map[string]*int{"k": &byKey, "amqproxy:" + streamShard(v, 0): &byShard,
				"amqproxy:" + streamShard(v, 1): &byShard, "amqproxy:" + streamShard(v, 2): &byShard} {
				q, err := ch.QueueDeclarePassive("dead "+queue, true, false, false, false, nil)
				if err != nil {
					return err
				}
				*count += q.Messages
			}
			if byKey != 1 || byShard != 1 {
				return fmt.Errorf("%d messages by the publisher's key and %d by a shard's, want 1 and 1", byKey, byShard)
			}
			return nil
		})
	})
}
