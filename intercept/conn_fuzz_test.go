package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// fuzzedClient and fuzzedHome are frames that lead somewhere; a program also has
// nonsense of its own making.
var (
	fuzzedClient = parseAll(
		`channel.open`, `channel.close`, `channel.close-ok`, `confirm.select nowait`, `confirm.select`, `basic.qos`,
		`basic.publish exchange="shard.a" routing-key="k"`, `basic.publish routing-key="shard.a"`,
		`basic.publish exchange="shard.unknown"`, `basic.publish exchange="shard.empty"`, `basic.publish exchange="logs"`,
		`header body-size=0`, `header body-size=3`, `header body-size=1 headers={BCC=["q"]}`, `header body-size=0 headers={CC=5}`, `body "abc"`,
		`queue.declare queue="shard.a" passive`, `queue.declare queue="shard.a" durable`, `queue.declare queue="q"`,
		`queue.bind queue="shard.a" exchange="shard.a"`, `queue.bind queue="q" exchange="shard.unknown"`, `queue.unbind queue="q" exchange="shard.a"`,
		`queue.purge queue="shard.a"`, `queue.delete queue="shard.a" nowait`, `queue.purge`, `basic.get`, `basic.consume`,
		`basic.get queue="shard.a"`, `basic.get queue="q"`, `basic.consume queue="shard.a" consumer-tag="c"`, `basic.consume queue="shard.a" nowait`,
		`basic.cancel consumer-tag="c"`, `basic.cancel consumer-tag="c" nowait`, `exchange.declare exchange="shard.a" type="topic" durable`,
		`exchange.declare exchange="shard.new" type="topic" nowait`, `exchange.declare exchange="shard.new" type="fanout"`,
		`exchange.declare exchange="shard.unknown" passive`, `exchange.delete exchange="shard.a"`, `exchange.bind destination="shard.a" source="e"`,
		`basic.ack delivery-tag=1`, `connection.close`, `connection.close-ok`, `connection.update-secret new-secret="s"`, `heartbeat`,
		`basic.get queue="stream: shard.a - n1 - 2"`, `basic.consume queue="stream: shard.a - n1 - 2" consumer-tag="d"`, `basic.cancel consumer-tag="d" nowait`,
		`basic.consume queue="shard.a" consumer-tag="x" exclusive`, `basic.ack delivery-tag=0 multiple`, `basic.nack delivery-tag=2 multiple`,
		`basic.reject delivery-tag=2`, `basic.recover`, `basic.recover-async`, `tx.select`,
		`basic.consume queue="shard.g" consumer-tag="c"`, `basic.consume queue="shard.g" no-ack=1`, `basic.consume queue="shard.o" consumer-tag="d" nowait`,
		`basic.get queue="shard.g"`, `basic.get queue="shard.g" no-ack=1`, `basic.qos prefetch-count=1`, `basic.qos prefetch-count=2 global=1`,
		`basic.recover requeue=1`, `basic.recover-async requeue=1`, `basic.ack delivery-tag=2`, `basic.ack delivery-tag=2 multiple=1`, `basic.consume queue="q" no-ack=1`)
	fuzzedHome = parseAll(
		`channel.open-ok`, `channel.close reply-code=404`, `channel.close reply-code=406 class-id=40 method-id=10`, `channel.close-ok`,
		`confirm.select-ok`, `basic.qos-ok`, `basic.ack delivery-tag=1`, `basic.ack delivery-tag=2`, `basic.nack delivery-tag=1`, `basic.ack multiple`,
		`basic.deliver consumer-tag="c" exchange="shard.a"`, `basic.return exchange="shard.a"`, `header body-size=0`, `header body-size=3`, `body "abc"`,
		`basic.get-ok exchange="shard.a"`, `basic.get-empty`, `basic.consume-ok consumer-tag="c"`, `basic.cancel-ok consumer-tag="c"`, `basic.cancel consumer-tag="c"`,
		`exchange.declare-ok`, `exchange.delete-ok`, `queue.declare-ok queue="q"`, `queue.purge-ok`, `queue.bind-ok`,
		`connection.close reply-code=320`, `connection.close-ok`, `connection.update-secret-ok`, `heartbeat`,
		`basic.deliver consumer-tag="d" delivery-tag=2`, `basic.get-ok delivery-tag=3`, `basic.recover-ok`, `basic.cancel-ok consumer-tag="d"`,
		`basic.deliver consumer-tag="c" delivery-tag=1 exchange="shard.g"`, `basic.deliver consumer-tag="c" delivery-tag=2 exchange="shard.g"`, `basic.cancel consumer-tag="d"`,
		`channel.close reply-code=403 reply-text="ACCESS_REFUSED - no"`, `channel.close reply-code=403 reply-text="ACCESS_REFUSED - in exclusive use"`,
		`channel.close reply-code=406 reply-text="PRECONDITION_FAILED - timed out"`, `queue.declare-ok consumer-count=1`)
)

func parseAll(texts ...string) (frames []frame.Frame) {
	for _, t := range texts {
		frames = append(frames, text("0 %s", t))
	}
	return frames
}

// program reads a Conn's inputs out of the fuzzer's bytes.
type program []byte

func (p *program) octet() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

// frame makes a frame of a list, or a type and payload of any kind.
func (p *program) frame(from []frame.Frame) frame.Frame {
	ch, which := uint16(p.octet()%4), int(p.octet())
	if which < 200 {
		f := slices.Clone(from[which%len(from)])
		if f.Method().Class() != 10 && f.Type() != frame.TypeHeartbeat {
			f.SetChannel(max(ch, 1))
		}
		return f
	}
	kind, n := p.octet()%9, min(int(p.octet()), len(*p))
	payload := (*p)[:n]
	if which%2 == 0 && n >= 1 { // the beginning of a method
		f := from[int(payload[0])%len(from)]
		payload = f.Payload()[:min(n-1, len(f.Payload()))]
		kind = frame.TypeMethod
	}
	*p = (*p)[n:]
	f := binary.BigEndian.AppendUint32([]byte{kind, byte(ch >> 8), byte(ch)}, uint32(len(payload)))
	return append(append(f, payload...), 0xCE)
}

// FuzzConn: no input makes a Conn panic or lose count, what it puts out are whole
// frames and no more than maxPerInput octets above what came in, and every place
// that was picked for a consumer is given back once, every hold on a shard, and whatever
// consumers of groups had.
func FuzzConn(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 1, 3, 0, 1, 6, 0, 1, 12, 0, 1, 15, 1, 1, 6, 2, 0})
	f.Add([]byte{0, 1, 0, 0, 1, 29, 2, 0, 0, 1, 1, 1, 1, 3, 0, 1, 0, 0, 1, 22, 1, 1, 1, 3, 0})
	f.Add([]byte{0, 1, 0, 0, 2, 0, 0, 2, 8, 0, 2, 12, 0, 1, 33, 1, 1, 20, 2, 0, 2, 1, 1, 1, 1, 3, 2, 3, 6})
	f.Add([]byte{0, 1, 0, 0, 1, 255, 1, 40, 0, 60, 0, 40, 0, 0, 7, 's', 'h', 'a', 'r', 'd', '.', 'a', 1, 'k'})
	f.Add([]byte{0, 1, 0, 0, 1, 30, 2, 0, 1, 29, 2, 3, 4, 3, 6, 1, 1, 10, 1, 1, 12, 1, 1, 18, 2}) // a consumer moves
	f.Add(fuzzedGroup)
	f.Add(append(slices.Clone(fuzzedGroup), 0, 1, 60, 0, 1, 64, 8, 96, 1, 33, 8, 96, 1, 12, 9, 0, 3, 200, 10, 3, 250))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newFuzzRun(t, shard.Policy{Name: "all", Pattern: regexp.MustCompile(`^shard\.`), VHost: "*"})
		for p := program(data); len(p) > 0; {
			r.step(&p)
		}
		r.finish()
	})
}

// fuzzedGroup opens a channel with a consumer of a group, which reads a shard and gets two
// messages.
var fuzzedGroup = []byte{0, 1, 0, 1, 1, 0, 0, 1, 54, 2, 9, 0xFF, 8, 33, 8, 96, 1, 0, 8, 96, 1, 17, 8, 96, 1, 33, 8, 96, 1, 12, 8, 96, 1, 34, 8, 96, 1, 12, 0, 1, 63}

// FuzzPassthrough: where no policy is, what goes in comes out, in both directions, but
// for a body that is longer than its header says, which ends the connection.
func FuzzPassthrough(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 1, 6, 0, 1, 12, 0, 1, 15, 1, 1, 10, 1, 1, 13, 1, 1, 14, 1, 1, 1, 0, 1, 2})
	f.Add([]byte{0, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1, 2, 1, 1, 3, 0, 1, 0, 0, 0, 40, 1, 0, 26})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newFuzzRun(t)
		var up, down []byte
		for p := program(data); len(p) > 0; {
			if p.octet()%2 == 0 {
				fr := p.frame(fuzzedClient)
				before := len(r.home)
				r.check(r.conn.FromClient(fr, &r.out))
				if r.take(); r.conn.phase == parted {
					if fr.Type() != frame.TypeBody {
						t.Fatalf("%s ends the connection", fr)
					}
					r.home, r.client = r.home[:before], r.client[:len(down)]
					break
				}
				up = append(up, unlessHeartbeat(fr)...)
			} else {
				fr := p.frame(fuzzedHome)
				down = append(down, unlessHeartbeat(fr)...)
				r.check(r.conn.FromHome(fr, &r.out))
			}
			r.take()
		}
		if !bytes.Equal(up, r.home) {
			t.Fatalf("up:\n%s\ncame as:\n%s", texts("", up), texts("", r.home))
		}
		if !bytes.Equal(down, r.client) {
			t.Fatalf("down:\n%s\ncame as:\n%s", texts("", down), texts("", r.client))
		}
	})
}

func unlessHeartbeat(f frame.Frame) frame.Frame {
	if bytes.Equal(f, frame.Heartbeat) {
		return nil
	}
	return f
}

// maxPerInput is the most that comes of an input beside its own octets: two
// closes, or a splice, or names that a method is rewritten with.
const maxPerInput = 1024

type fuzzRun struct {
	t            *testing.T
	conn         *Conn
	out          Out
	snap         snapshot
	now          time.Time
	errands      []Errand
	inputs, read int
	home, client []byte
	seats        map[string]int // picked, and how often given back
	held         map[string]int
	groups       fuzzedGroups
}

func newFuzzRun(t *testing.T, policies ...shard.Policy) *fuzzRun {
	r := &fuzzRun{t: t, now: time.Unix(0, 0), seats: map[string]int{}, held: map[string]int{}, groups: newFuzzedGroups()}
	r.snap.init()
	r.snap.policies = policies
	if len(policies) > 0 {
		r.snap.add("stream", "shard.a", options{"shards": "3", "local": "2", "queue-declare": "answer", "queue-purge": "all", "retry-nacked": "true", "third": "1", "behind": "rrrrrr"})
		r.snap.add("stream", "shard.empty", options{"shards": "0"})
		r.snap.add("stream", "shard.g", options{"consumers": "balanced", "local": "1", "third": "1"})
		r.snap.add("stream", "shard.o", options{"consumers": "ordered", "local": "1"})
	}
	r.snap.brokers["n2"], r.snap.brokers["n3"] = shard.Broker{Address: "n2:1"}, shard.Broker{Address: "n3:1", Beside: true}
	r.conn = New(Config{VHost: "/", FrameMax: 4096, HearsCancel: true, Seed: 1, KnowsLogin: true, MaxLinks: 4,
		StallTimeout: time.Second, ConfirmTimeout: 3 * time.Second, WaitTimeout: time.Second}, r.snap.make(), &shard.Counters{})
	return r
}

func (r *fuzzRun) step(p *program) {
	switch op := p.octet(); op % 11 {
	case 9:
		r.divide(p.octet())
	case 10:
		r.conn.Written(r.conn.Unwritten(), &r.out)
	case 8:
		r.link(p)
	case 0, 4, 6:
		f := p.frame(fuzzedClient)
		r.read += len(f)
		r.check(r.conn.FromClient(f, &r.out))
	case 1, 5, 7:
		f := p.frame(fuzzedHome)
		r.read += len(f)
		r.check(r.conn.FromHome(f, &r.out))
	case 2:
		r.answer(op >> 3)
	case 3:
		r.control(p.octet())
	}
	r.take()
}

// answer answers the oldest errand, and tells the Conn what a Learn has found.
func (r *fuzzRun) answer(how byte) {
	if len(r.errands) == 0 {
		return
	}
	e := r.errands[0]
	r.errands = r.errands[1:]
	a := Answer{Channel: e.Channel, Serial: e.Serial, Messages: 5}
	switch {
	case how%4 == 1:
		a.Err = &frame.ChannelError{Code: frame.NotFound, Text: "no"}
	case e.Kind == Pick:
		a.Queue = fmt.Sprintf("stream: shard.a - n1 - %d", e.Serial)
		r.seats[a.Queue] = 0
	case e.Kind == Join:
		a.Member = r.groups.join(e)
	case e.Kind == Declare || e.Kind == Delete:
		a.Held = e.Stream.Stream
	case e.Kind == Learn || e.Kind == Forget:
		r.snap.add("absent", e.Stream.Stream, nil)
	case e.Kind == Make:
		r.snap.add("stream", e.Stream.Stream, options{})
	}
	r.conn.Use(r.snap.make())
	r.conn.Answered(a, &r.out)
}

// link has something happen to a publish link, or come from it.
func (r *fuzzRun) link(p *program) {
	if len(r.conn.links) == 0 {
		return
	}
	how := p.octet()
	i := int(how) % len(r.conn.links)
	switch l := r.conn.links[i]; how >> 5 {
	case 0:
		r.conn.LinkDown(i, Down(how%3), "why", &r.out)
	case 1:
		if l.state != linkUp {
			r.conn.LinkUp(i, 0, &r.out)
		}
	case 2:
		r.conn.Stuck(i, how%2 == 0)
	default:
		f := p.frame(fuzzedHome)
		r.read += len(f)
		if err := r.conn.FromLink(i, f, &r.out); err != nil {
			r.conn.LinkDown(i, Lost, "why", &r.out)
		}
	}
}

func (r *fuzzRun) control(how byte) {
	switch why := (&frame.ConnError{Code: frame.ConnectionForced, Text: "why"}); how % 16 {
	case 0:
		r.conn.Shut(why, &r.out)
	case 1:
		r.conn.HomeDown(why, &r.out)
	case 2, 3, 4, 5: // one of the shards that may be picked retires, closes or is gone
		o := r.snap.streams["shard.a"]
		if o == nil { // it was deleted
			return
		}
		letters := []byte(o["behind"])
		if at := int(how >> 4); at < len(letters) {
			letters[at] = "c.rr"[how%4]
		}
		o["behind"] = string(letters)
		r.conn.Use(r.snap.make())
	default:
		r.now = r.now.Add(time.Duration(how) * 10 * time.Millisecond)
		r.conn.Tick(r.now, &r.out)
	}
}

func (r *fuzzRun) check(err error) {
	if err != nil {
		r.t.Fatal(err)
	}
}

// take ends a batch and takes what came of it.
func (r *fuzzRun) take() {
	r.conn.EndBatch()
	r.inputs++
	if len(r.out.Errands) > 2 { // the end of a consumer may let the next one begin
		r.t.Fatalf("one input led to %d errands", len(r.out.Errands))
	}
	r.errands = append(r.errands, r.out.Errands...)
	r.check(r.groups.take(&r.out))
	for _, queue := range r.out.Released {
		if !r.groups.released(queue) {
			r.seats[queue]++
		}
	}
	for _, queue := range r.out.Held {
		r.held[queue]++
	}
	for _, queue := range r.out.Freed {
		r.held[queue]--
	}
	r.home = r.out.Home.AppendTo(r.home)
	r.client = r.out.Client.AppendTo(r.client)
	r.out.Reset()
	if put, most := len(r.home)+len(r.client), r.read+maxPerInput*r.inputs; put > most && r.read > 0 {
		r.t.Fatalf("%d octets of %d inputs became %d", r.read, r.inputs, put)
	}
	r.counts()
	r.holds()
	if wrong := checkFeeds(r.conn); wrong != "" {
		r.t.Fatal(wrong)
	}
}

func (r *fuzzRun) finish() {
	for _, b := range [][]byte{r.home, r.client} {
		for _, f := range cut(b) {
			if f[len(f)-1] != 0xCE {
				r.t.Fatalf("broken frame %x", []byte(f))
			}
		}
	}
	for len(r.errands) > 0 {
		r.answer(0)
		r.take()
	}
	r.conn.End(&r.out)
	r.take()
	r.check(r.groups.over())
	for queue, n := range r.seats {
		if n != 1 {
			r.t.Fatalf("the place on %q was given back %d times", queue, n)
		}
	}
}
