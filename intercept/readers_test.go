package intercept

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"

	"pgregory.net/rapid"
)

// TestReaders puts a Conn whose client has consumers of groups between that client and the
// brokers of three nodes. Shards are given and taken, links come and go, brokers cancel and
// close, and the client settles in every way that there is.
//
// Whatever comes when: a settlement reaches exactly those who brought the messages, and
// nobody else; that of a message whose reader is gone reaches nobody. Messages come whole,
// once, in order, with tags that rise by one, and no more than the client asked for. Nothing
// is left lying in the end. And a second Conn, which takes the same in other pieces, puts out
// the same.
func TestReaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newReaders(t)
		for range rapid.SampledFrom([]int{20, 60, 200, 400}).Draw(t, "steps") {
			r.step(rapid.SampledFrom(r.steps()).Draw(t, "step"))
		}
		r.finish()
	})
}

type readers struct {
	upstreams
	conns   [2]*Conn
	out     Out
	sent    [2]map[string][]byte // in this step, by destination
	snap    snapshot
	now     time.Time
	home    *upstream
	clients []*settler
	errands []Errand
	dials   []Dial
	members []uint64 // that have not left
	streams map[uint64]string
	serial  int
	seats   map[string]int
	want    []act // of this step
	ending  bool
}

var readQueues = []string{"q", "stream: shard.b - n1 - 0", "stream: shard.b - n2 - 0", "stream: shard.b - n3 - 0", "stream: shard.o - n1 - 0", "stream: shard.o - n2 - 0"}

func newReaders(t *rapid.T) *readers {
	r := &readers{upstreams: upstreams{t: t, queues: map[string][]stored{}, given: map[string]*given{}},
		now: time.Unix(0, 0), streams: map[uint64]string{}, seats: map[string]int{}}
	r.snap.init()
	r.snap.add("stream", "shard.b", options{"consumers": "balanced", "shards": "2", "local": "1", "third": "1"})
	r.snap.add("stream", "shard.o", options{"consumers": "ordered", "shards": "2", "local": "1", "single": ""})
	r.snap.brokers["n2"], r.snap.brokers["n3"] = shard.Broker{Address: "n2:1"}, shard.Broker{Address: "n3:1", Beside: true}
	r.home = &upstream{upstreams: &r.upstreams, index: -1, channels: map[uint16]*upChannel{}}
	r.links = []*upstream{r.home}
	for i := range r.conns {
		r.conns[i] = New(Config{VHost: "/", FrameMax: 4096, Seed: 1, KnowsLogin: true, MaxLinks: 4, StallTimeout: 3 * time.Second, HandoverTimeout: 2 * time.Second}, r.snap.make(), &shard.Counters{})
		r.sent[i] = map[string][]byte{}
	}
	r.clients = []*settler{newSettler(t, 1), newSettler(t, 2)}
	return r
}

// oneOf draws by number: pointers tell nothing in a log.
func oneOf[T any](t *rapid.T, what string, from []T) T {
	return from[rapid.IntRange(0, len(from)-1).Draw(t, what)]
}

// steps are those that have something to do.
func (r *readers) steps() []string {
	steps := []string{"client", "client", "client", "publish", "time"}
	for what, n := range map[string]int{"answer": len(r.errands), "dial": len(r.dials), "divide": len(r.members), "break": len(r.links) - 1, "serve": len(r.mayServe())} {
		if n > 0 {
			steps = append(steps, what)
		}
		if n > 0 && what == "serve" {
			steps = append(steps, what, what)
		}
	}
	for _, u := range r.links {
		if len(u.toConn) > 0 {
			steps = append(steps, "from", "from", "from")
		}
	}
	if r.conns[0].Unwritten() > 0 {
		steps = append(steps, "written")
	}
	slices.Sort(steps)
	return steps
}

func (r *readers) step(name string) {
	switch name {
	case "client":
		r.act(oneOf(r.t, "channel", r.clients))
	case "publish":
		queue := rapid.SampledFrom(readQueues).Draw(r.t, "queue")
		r.serial++
		r.queues[queue] = append(r.queues[queue], stored{id: r.serial})
	case "serve":
		s := oneOf(r.t, "consumer", r.mayServe())
		s.link.give(s.ch, s.k, s.k.queue, s.k.noAck)
	case "from":
		u := oneOf(r.t, "link", slices.DeleteFunc(slices.Clone(r.links), func(u *upstream) bool { return len(u.toConn) == 0 }))
		n := rapid.IntRange(1, len(u.toConn)).Draw(r.t, "frames")
		frames := u.toConn[:n]
		u.toConn = u.toConn[n:]
		r.feed(u, frames)
	case "answer":
		r.answer()
	case "dial":
		r.dial()
	case "divide":
		r.divide(r.members, func(string) int { return rapid.IntRange(0, len(r.members)).Draw(r.t, "to") })
	case "break":
		r.breaks(oneOf(r.t, "link", r.links[1:]))
	case "written":
		r.written()
	case "time":
		r.now = r.now.Add(300 * time.Millisecond)
		r.both(func(c *Conn, out *Out) { c.Tick(r.now, out) })
	}
}

// both gives the two the same input.
func (r *readers) both(input func(c *Conn, out *Out)) {
	for i, c := range r.conns {
		input(c, &r.out)
		c.EndBatch()
		r.take(i)
	}
	r.compare()
}

// feed gives the first Conn the frames of a link, or with nil of the client, one by one, and
// the second one in pieces of any length.
func (r *readers) feed(u *upstream, frames []frame.Frame) {
	side := "client"
	if u == r.home {
		side = "home"
	} else if u != nil {
		side = fmt.Sprint("link", u.index)
	}
	var all []byte
	for _, f := range frames {
		r.t.Logf("%s: %v", side, f)
		r.noteGone(u, f)
		all = append(all, f...)
		r.pass(0, side, slices.Clone(f))
	}
	var rest []byte
	for len(all) > 0 {
		n := len(all)
		if rapid.Bool().Draw(r.t, "cut") {
			n = rapid.IntRange(1, len(all)).Draw(r.t, "octets")
		}
		rest = append(rest, all[:n]...)
		all = all[n:]
		rest = r.pass(1, side, rest)
	}
	r.compare()
}

// pass gives a Conn what is whole of b, as one read, and gives back the rest.
func (r *readers) pass(i int, side string, b []byte) (rest []byte) {
	whole := 0
	for whole+frame.Overhead <= len(b) {
		n := len(frame.First(append(slices.Clone(b[whole:]), make([]byte, 5000)...)))
		if whole+n > len(b) {
			break
		}
		whole += n
	}
	rest = slices.Clone(b[whole:])
	if i == 0 {
		for _, f := range cut(b[:whole]) {
			if err := r.one(side, f); err != nil {
				r.t.Fatal(err)
			}
		}
	} else if err := feedWith(r.conns[i], side, b[:whole], &r.out); err != nil {
		r.t.Fatal(err)
	}
	r.conns[i].EndBatch()
	r.take(i)
	clear(b)
	return rest
}

func (r *readers) one(side string, f frame.Frame) error {
	switch c := r.conns[0]; side {
	case "client":
		return c.FromClient(f, &r.out)
	case "home":
		return c.FromHome(f, &r.out)
	default:
		return c.FromLink(int(side[4]-'0'), f, &r.out)
	}
}

// noteGone notes of which channels the Conn is about to hear that they are no more.
func (r *readers) noteGone(u *upstream, f frame.Frame) {
	if u != nil && f.Type() == frame.TypeMethod && (f.Method() == frame.ChannelClose || f.Method() == frame.BasicCancel) {
		u.channels[f.Channel()].gone = true
	}
}

// take takes what a Conn has put out; that of the first one has consequences.
func (r *readers) take(i int) {
	say := func(to string, b []byte) { r.sent[i][to] = append(r.sent[i][to], b...) }
	say("client", r.out.Client.AppendTo(nil))
	say("home", r.out.Home.AppendTo(nil))
	for l := range r.out.Links() {
		say(fmt.Sprint("link", l), r.out.Link(l).AppendTo(nil))
	}
	for what, all := range map[string]any{"dials": r.out.Dials, "drops": r.out.Drops, "readings": r.out.Readings, "left": r.out.Left, "seated": r.out.Seated, "released": r.out.Released} {
		if list := fmt.Sprint(all); list != "[]" {
			say(what, []byte(list[1:len(list)-1]+" "))
		}
	}
	if i == 0 {
		r.consequences()
	}
	r.out.Reset()
}

func (r *readers) consequences() {
	for _, f := range cut(r.out.Client.AppendTo(nil)) {
		r.t.Logf("        to client: %v", f)
		base, ch := uint64(0), r.conns[0].channel(f.Channel())
		if ch != nil && ch.feed != nil {
			base = ch.feed.base
		}
		r.clients[f.Channel()-1].take(f, &r.upstreams, base)
	}
	for _, u := range r.links {
		b := &r.out.Home
		if u.index >= 0 {
			b = r.out.Link(u.index)
		}
		for _, f := range cut(b.AppendTo(nil)) {
			r.t.Logf("        to link %d: %v", u.index, f)
			u.take(f)
		}
	}
	r.errands = append(r.errands, r.out.Errands...)
	for _, d := range r.out.Dials { // what was tried so long ago has failed meanwhile
		r.dials = append(slices.DeleteFunc(r.dials, func(old Dial) bool { return old.Link == d.Link }), d)
	}
	for _, number := range r.out.Left {
		if !slices.Contains(r.members, number) {
			r.t.Fatalf("member %d leaves, and is none", number)
		}
		r.members = slices.DeleteFunc(r.members, func(m uint64) bool { return m == number })
	}
	for _, queue := range r.out.Seated {
		r.seats[queue]++
	}
	for _, queue := range r.out.Released {
		if r.seats[queue]--; r.seats[queue] < 0 {
			r.t.Fatalf("%q is given back and was not had", queue)
		}
	}
}

// compare ends a step: both Conns have said the same, and settled what was to be settled.
func (r *readers) compare() {
	for to, b := range r.sent[0] {
		if other := r.sent[1][to]; string(other) != string(b) {
			if to == "client" || to == "home" || strings.HasPrefix(to, "link") {
				r.t.Fatalf("to %s:\n%s\nin other pieces:\n%s", to, texts(to, b), texts(to, other))
			}
			r.t.Fatalf("%s: %s, and in other pieces: %s", to, b, other)
		}
		delete(r.sent[0], to)
		delete(r.sent[1], to)
	}
	if wrong := checkFeeds(r.conns[0]); wrong != "" {
		r.t.Fatal(wrong)
	}
	count := map[act]int{}
	for _, a := range r.acts {
		count[a]++
		if !a.what.came && !a.what.noAck {
			r.t.Fatalf("%v of %v, which the client never had", a.method, a.what.method)
		}
	}
	for _, a := range r.want {
		count[a]--
	}
	for a, n := range count {
		if n != 0 {
			r.t.Fatalf("%v (requeue %v) of %v: %d too many", a.method, a.requeue, a.what.method, n)
		}
	}
	r.acts, r.want = nil, nil
}
