package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// feedWith gives a Conn all frames of b as a session does: runs of messages at once, and
// the others one by one.
func feedWith(c *Conn, side string, b []byte, out *Out) error {
	run, one := c.RunFromClient, c.FromClient
	switch side {
	case "client":
	case "home":
		run, one = c.RunFromHome, c.FromHome
	default:
		run = func(b []byte, out *Out) int { return c.RunFromLink(int(side[4]-'0'), b, out) }
		one = func(f frame.Frame, out *Out) error { return c.FromLink(int(side[4]-'0'), f, out) }
	}
	for len(b) > 0 {
		if b = b[run(b, out):]; len(b) == 0 {
			break
		}
		f := frame.First(b)
		b = b[len(f):]
		if err := one(f[:len(f):cap(f)], out); err != nil {
			return err
		}
	}
	return nil
}

// runPublishes are messages that a run may take, and some that it may not.
var (
	runPublishes = []string{`basic.publish exchange="shard.a" routing-key="k%d"`, `basic.publish exchange="logs" routing-key="k%d" mandatory`,
		`basic.publish exchange="shard.h" routing-key="k%d"`, `basic.publish exchange="shard.empty"`, `basic.publish routing-key="shard.a"`, `basic.publish exchange="shard.r"`}
	runHeaders = []string{`header body-size=%d`, `header body-size=%d headers={BCC=["q" "r"]} delivery-mode=2`, `header body-size=%d headers={a="x" n=5} content-type="t" message-id="m"`,
		`header body-size=%d headers={CC=5}`, `header body-size=%d headers={} delivery-mode=1`, `header body-size=%d content-type="t" delivery-mode=2`}
	runDeliveries = []string{`basic.deliver consumer-tag="c" delivery-tag=%d exchange="shard.a"`, `basic.deliver consumer-tag="d" delivery-tag=%d exchange="logs" redelivered`,
		`basic.get-ok delivery-tag=%d exchange="shard.a"`, `basic.return exchange="shard.a" routing-key="%d"`, `basic.ack delivery-tag=%d`, `basic.deliver exchange="shard.unknown" delivery-tag=%d`}
)

// messages are the frames of a program of messages: their methods, headers and bodies
// in many combinations, the bodies in one piece, in two, missing, or too long.
func (p *program) messages(methods []string) (b []byte) {
	for i := 0; len(*p) > 0; i++ {
		how, size := p.octet(), []int{0, 3, 3, 100, 1500, 4000}[int(p.octet())%6]
		ch := uint16(how%3 + 1)
		line := methods[int(p.octet())%len(methods)]
		if bytes.Contains([]byte(line), []byte("%d")) {
			line = fmt.Sprintf(line, i)
		}
		method := text("1 %s", line)
		method.SetChannel(ch)
		b = append(b, method...)
		if !method.Method().HasContent() {
			continue
		}
		header := text("1 "+runHeaders[int(p.octet())%len(runHeaders)], size)
		header.SetChannel(ch)
		b = append(b, header...)
		pieces := []int{size}
		switch how % 32 {
		case 31:
			pieces = []int{size / 2, size - size/2}
		case 30:
			pieces = []int{size + 1}
		case 29:
			pieces = nil
		}
		for _, n := range pieces {
			if n > 0 {
				b = append(append(binary.BigEndian.AppendUint32([]byte{frame.TypeBody, 0, byte(ch)}, uint32(n)), make([]byte, n)...), 0xCE)
			}
		}
	}
	return b
}

// FuzzRun: runs of messages make no difference: the same goes out, is asked and is
// counted as when a Conn takes every frame by itself.
func FuzzRun(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 0, 3, 1, 0, 0, 3, 1, 0, 0, 4, 0, 0, 0, 5, 0, 2}, false)
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 31, 3, 0, 0, 30, 1, 0, 0, 29, 1, 0, 0, 0, 1, 2, 2, 0, 1, 2, 2, 0, 0, 4, 0, 0, 1, 0, 3}, true)
	f.Add([]byte{0, 1, 3, 0, 0, 1, 0, 0, 0, 1, 5, 0, 0, 1, 5, 0, 2, 5, 1, 0, 2, 5, 1, 0}, false)
	f.Fuzz(func(t *testing.T, data []byte, confirm bool) {
		p := program(data[:min(len(data), 400)])
		split := len(p) / 2
		up, down := p[:split], p[split:]
		frames := map[string][]byte{"client": up.messages(runPublishes), "home": down.messages(runDeliveries)}
		var results [2]string
		var sent [2][2][]byte
		for i := range results {
			r := newFuzzRun(t)
			r.snap.add("stream", "shard.a", options{"shards": "5"})
			r.snap.add("stream", "shard.h", options{"hash-on": "header:n"})
			r.snap.add("stream", "shard.r", options{"type": "x-random"})
			r.snap.add("stream", "shard.empty", options{"shards": "0"})
			r.conn.Use(r.snap.make())
			for ch := range uint16(3) {
				r.conn.FromClient(text("%d channel.open", ch+1), &r.out)
				r.conn.FromHome(text("%d channel.open-ok", ch+1), &r.out)
				if confirm {
					r.conn.FromClient(text("%d confirm.select nowait", ch+1), &r.out)
				}
			}
			var b Out
			for _, side := range []string{"client", "home"} {
				in := slices.Clone(frames[side])
				if i == 0 {
					for _, fr := range cut(in) {
						r.check(map[string]func(frame.Frame, *Out) error{"client": r.conn.FromClient, "home": r.conn.FromHome}[side](fr, &b))
					}
				} else {
					r.check(feedWith(r.conn, side, in, &b))
				}
				r.conn.EndBatch()
				sent[i][0], sent[i][1] = b.Home.AppendTo(sent[i][0]), b.Client.AppendTo(sent[i][1])
				for _, e := range b.Errands {
					results[i] += errandText(e) + "\n"
				}
				b.Reset()
			}
			results[i] += fmt.Sprint(countersText(r.conn.tally.total), r.conn.phase)
			for _, name := range []string{"shard.a", "shard.h", "shard.r"} {
				results[i] += " " + countersText(r.snap.counters[name])
			}
			for _, ch := range r.conn.channels {
				if ch != nil {
					results[i] += fmt.Sprintf(" %v %v %v", ch.confirms.sent, ch.publish.state, ch.down)
				}
			}
		}
		for i, to := range []string{"home", "client"} {
			if !bytes.Equal(sent[0][i], sent[1][i]) {
				t.Fatalf("to %s, frame by frame:\n%s\nin runs:\n%s", to, texts(to, sent[0][i]), texts(to, sent[1][i]))
			}
		}
		if results[0] != results[1] {
			t.Fatalf("frame by frame:\n%s\nin runs:\n%s", results[0], results[1])
		}
	})
}

// TestRunAfterAComeback: a shard that a message has come back from, and that is in no table any
// more, does not hold up runs for ever, whatever is done with what comes back.
func TestRunAfterAComeback(t *testing.T) {
	for _, mode := range []string{"spill", "wait"} {
		b := newBatch(t, "client", false, `basic.publish exchange="shard.a" routing-key="k1"`, `header body-size=1`, `body "x"`)
		with := func(shards string) {
			var snap snapshot
			snap.init()
			snap.add("stream", "shard.a", options{"shards": shards, "on-unavailable": mode})
			b.conn.Use(snap.make())
		}
		feed := func(side string, lines ...string) {
			for _, l := range lines {
				if err := feedWith(b.conn, side, text("1 %s", l), &b.out); err != nil {
					t.Fatal(err)
				}
			}
			b.conn.EndBatch()
			b.out.Reset()
		}
		one := b.buffer[:len(b.buffer)/perBatch]
		with("2")
		feed("client", "confirm.select nowait", `basic.publish exchange="shard.a" routing-key="k1"`, "header body-size=0")
		if b.conn.RunFromClient(bytes.Clone(one), &b.out) != len(one) {
			t.Fatalf("%s: no run to begin with", mode)
		}
		table, _ := b.conn.snap.Find("/", "shard.a")
		first := table.Shards[table.Pick(shard.KeyHash([]byte("k1")))].Queue
		feed("home", "basic.ack delivery-tag=1")
		at := time.Unix(1, 0)
		ticks := func(n int) {
			for range n {
				at = at.Add(time.Second / 2)
				b.conn.Tick(at, &b.out)
			}
		}
		for tag := 2; b.conn.tally.total.Nacked.Load() == 0; tag++ { // until it is given up
			if tag > 10 {
				t.Fatalf("%s: it is not given up", mode)
			}
			feed("home", `basic.return exchange="shard.a" routing-key="k1"`, "header body-size=1", `body "x"`, fmt.Sprint("basic.ack delivery-tag=", tag))
			if mode == "wait" { // for its turn, and no longer than it may
				ticks(2)
				b.conn.EndBatch()
			}
		}
		with("1")
		if table, _ := b.conn.snap.Find("/", "shard.a"); table.Shards[0].Queue == first {
			t.Fatalf("the key has its shard still: this test would prove nothing")
		}
		ticks(1)
		feed("client", `basic.publish exchange="shard.a" routing-key="k1"`, "header body-size=0")
		if b.conn.RunFromClient(bytes.Clone(one), &b.out) != len(one) {
			t.Errorf("%s: a publish that is like the last goes its way alone", mode)
		}
	}
}
