package intercept

import (
	"fmt"
	"slices"
	"strings"

	"amqproxy/frame"
	"amqproxy/shard"

	"pgregory.net/rapid"
)

// act has a client do something on its channel, if it does not wait for an answer.
func (r *readers) act(s *settler) {
	send := func(format string, args ...any) {
		r.feed(nil, []frame.Frame{text("%d %s", s.n, fmt.Sprintf(format, args...))})
	}
	switch {
	case s.closed:
		*s = *newSettler(r.t, int(s.n))
		send("channel.close-ok")
	case s.waits != "" || s.doomed != "":
	case !s.opened:
		s.opened, s.waits = true, "channel.open"
		send("channel.open")
	case len(s.unsettled) > 0 && rapid.Bool().Draw(r.t, "settles"):
		r.settles(s)
	default:
		r.asks(s, send)
	}
}

func (r *readers) settles(s *settler) {
	f, want := s.settlement(r.base(s), !r.onItsWay(s))
	r.want = want
	r.feed(nil, []frame.Frame{f})
}

// base is where the tags begin that the Conn gives.
func (r *readers) base(s *settler) uint64 {
	if ch := r.conns[0].channel(s.n); ch != nil && ch.feed != nil {
		return ch.feed.base
	}
	return s.last
}

// onItsWay tells whether the home link brings something.
func (r *readers) onItsWay(s *settler) bool {
	return slices.ContainsFunc(r.home.toConn, func(f frame.Frame) bool { return f.Channel() == s.n })
}

func (r *readers) asks(s *settler, send func(string, ...any)) {
	what := rapid.SampledFrom([]string{"basic.consume", "basic.consume", "basic.consume", "basic.qos", "basic.recover", "basic.get", "basic.cancel", "recover-async", "unknown tag", "channel.close"}).Draw(r.t, "method")
	if rare := what == "unknown tag" || what == "channel.close"; rare && rapid.IntRange(0, 5).Draw(r.t, "really") > 0 {
		return
	}
	switch what {
	case "basic.consume":
		if len(s.consumers) >= 3 {
			return
		}
		r.serial++
		queue, k := rapid.SampledFrom([]string{"shard.b", "shard.b", "shard.o", "q"}).Draw(r.t, "queue"), &settlerConsumer{limit: s.limit, order: map[string]int{}}
		noAck := ""
		if k.home = queue == "q"; rapid.IntRange(0, 3).Draw(r.t, "no-ack") == 0 {
			k.noAck, noAck = true, "no-ack=1"
		}
		tag := fmt.Sprint("c", r.serial)
		s.consumers[tag], s.waits = k, what
		send("basic.consume queue=%q consumer-tag=%q %s", queue, tag, noAck)
	case "basic.qos":
		n := rapid.IntRange(0, 5).Draw(r.t, "prefetch")
		s.waits = what
		if rapid.Bool().Draw(r.t, "global") {
			s.limitAll = n
			send("basic.qos prefetch-count=%d global=1", n)
			return
		}
		s.limit = n
		send("basic.qos prefetch-count=%d", n)
	case "basic.get":
		s.waits = what
		send("basic.get queue=%q %s", rapid.SampledFrom([]string{"shard.b", "q"}).Draw(r.t, "queue"), rapid.SampledFrom([]string{"", "no-ack=1"}).Draw(r.t, "no-ack"))
	case "basic.cancel":
		if tags := keys(s.consumers); len(tags) > 0 {
			s.waits, s.ends = what, rapid.SampledFrom(tags).Draw(r.t, "consumer")
			send("basic.cancel consumer-tag=%q", s.ends)
		}
	case "channel.close":
		s.waits = what
		send("channel.close reply-code=200")
	case "unknown tag":
		r.unknown(s, send)
	default:
		r.recovers(s, what, send)
	}
}

func keys(m map[string]*settlerConsumer) (tags []string) {
	for tag := range m {
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	return tags
}

// unknown settles what is not to be settled.
func (r *readers) unknown(s *settler, send func(string, ...any)) {
	if ch := r.conns[0].channel(s.n); ch.feed == nil {
		return // the home broker minds it
	}
	tag := rapid.Uint64Range(r.base(s)+1, s.last+2).Draw(r.t, "tag")
	if slices.ContainsFunc(s.unsettled, func(o owned) bool { return o.as == tag }) {
		return
	}
	s.doomed = fmt.Sprintf("PRECONDITION_FAILED - unknown delivery tag %d", tag)
	send("basic.%s delivery-tag=%d", rapid.SampledFrom([]string{"ack", "ack multiple=1", "nack", "reject"}).Draw(r.t, "settlement"), tag)
}

// recovers has everything that the client has given back. With recover-async there is no
// answer to tell what of the home link's was on its way.
func (r *readers) recovers(s *settler, what string, send func(string, ...any)) {
	had := s.unsettled
	switch {
	case what == "basic.recover":
		s.unsettled, s.older, s.waits = nil, nil, what
		send("basic.recover requeue=1")
	case r.onItsWay(s):
		return
	default:
		s.unsettled, s.older = nil, nil
		send("basic.recover-async requeue=1")
	}
	for _, o := range had {
		if o.ch.state == modelOpen && slices.Contains(o.ch.unacked, o.given) {
			r.t.Fatalf("%v was not recovered", o.method)
		}
	}
}

func (r *readers) answer() {
	e := r.errands[0]
	r.errands = r.errands[1:]
	r.serial++
	a := Answer{Channel: e.Channel, Serial: e.Serial, Member: uint64(r.serial)}
	r.members = append(r.members, a.Member)
	r.streams[a.Member] = e.Stream.Stream
	r.both(func(c *Conn, out *Out) { c.Answered(a, out) })
}

// divide gives each shard to a member of its stream, or to none; those of a balanced one
// sometimes to several.
func (r *readers) divide(members []uint64, to func(queue string) int) {
	parts := map[uint64]shard.Part{}
	for _, number := range members {
		parts[number] = shard.Part{}
	}
	for _, stream := range []string{"shard.b", "shard.o"} {
		table, _ := r.conns[0].snap.Find("/", stream)
		for _, s := range table.All() {
			at := to(s.Queue)
			for i, number := range members {
				if r.streams[number] == stream && (i == at || stream == "shard.b" && i > at) {
					parts[number] = shard.Part{Shards: append(slices.Clone(parts[number].Shards), s)}
				}
			}
		}
	}
	r.both(func(c *Conn, out *Out) { c.Follow(shard.Parts{Of: parts}, out) })
}

// dial says what has become of a link that is to be opened.
func (r *readers) dial() {
	d := r.dials[0]
	r.dials = r.dials[1:]
	for len(r.links) <= d.Link+1 {
		u := &upstream{upstreams: &r.upstreams, index: len(r.links) - 1, channels: map[uint16]*upChannel{}}
		r.links = append(r.links, u)
	}
	if !r.ending && rapid.IntRange(0, 4).Draw(r.t, "fails") == 0 {
		why := rapid.SampledFrom([]Down{Failed, Stalled, Refused}).Draw(r.t, "why")
		r.t.Logf("link %d: %v", d.Link, why)
		r.both(func(c *Conn, out *Out) { c.LinkDown(d.Link, why, "why", out) })
		return
	}
	r.t.Logf("link %d is up", d.Link)
	r.both(func(c *Conn, out *Out) { c.LinkUp(d.Link, 0, out) })
}

// breaks has something happen to a consume link: it is lost, or its broker ends a consumer or
// closes a channel.
func (r *readers) breaks(u *upstream) {
	if r.conns[0].links[u.index].state != linkUp {
		return
	}
	var open []*upChannel
	for n := range uint16(100) {
		if ch := u.channels[n]; ch != nil && ch.state == modelOpen {
			open = append(open, ch)
		}
	}
	how := rapid.IntRange(0, 4).Draw(r.t, "how")
	switch {
	case how == 0:
		r.t.Logf("link %d is lost", u.index)
		u.lose()
		r.both(func(c *Conn, out *Out) { c.LinkDown(u.index, Lost, "", out) })
	case len(open) == 0:
	case how == 1:
		u.refuse(oneOf(r.t, "channel", open), `reply-code=541 reply-text="INTERNAL_ERROR"`)
	case how == 2:
		ch := oneOf(r.t, "channel", open)
		if len(ch.consumers) > 0 {
			u.say(ch.number, "basic.cancel consumer-tag=%q nowait=1", ch.consumers[0].tag)
			ch.consumers = nil
		}
	}
}

// written says that the client's socket has taken all.
func (r *readers) written() {
	for _, s := range r.clients {
		for _, g := range s.quiet {
			if !g.ch.gone {
				r.want = append(r.want, act{g, frame.BasicAck, false})
			}
		}
		s.quiet = nil
	}
	r.both(func(c *Conn, out *Out) { c.Written(c.Unwritten(), out) })
}

// finish has everything arrive and the client take and settle all; then it closes.
func (r *readers) finish() {
	r.ending = true
	for _, s := range r.clients {
		s.limit = 0
	}
	for i := 0; i < 30; i++ {
		r.divide(r.members, r.first)
		r.settleAll()
		r.step("time")
	}
	for queue, messages := range r.queues {
		if len(messages) > 0 && r.first(queue) >= 0 {
			r.t.Fatalf("%d messages stay in %q", len(messages), queue)
		}
	}
	for _, u := range r.links {
		for n, ch := range u.channels {
			if ch.state == modelOpen && len(ch.unacked) > 0 && u != r.home {
				r.t.Fatalf("link %d, channel %d: %d messages are not settled", u.index, n, len(ch.unacked))
			}
		}
	}
	r.close()
}

// first is the first member of a queue's stream; -1 if there is none.
func (r *readers) first(queue string) int {
	return slices.IndexFunc(r.members, func(number uint64) bool { return strings.HasPrefix(queue, "stream: "+r.streams[number]+" - ") })
}

// settleAll has all that is on its way arrive, and the client settle what it has.
func (r *readers) settleAll() {
	for range 1000 {
		done := true
		for _, s := range r.clients {
			if s.closed {
				r.act(s)
				done = false
			}
			for s.waits == "" && s.doomed == "" && len(s.unsettled) > 0 {
				r.settles(s)
				done = false
			}
		}
		for _, step := range []string{"answer", "dial", "serve", "from", "written"} {
			if slices.Contains(r.steps(), step) {
				r.step(step)
				done = false
			}
		}
		if done {
			return
		}
	}
	r.t.Fatal("it never ends")
}

func (r *readers) close() {
	for _, s := range r.clients {
		if s.opened && s.waits == "" {
			s.waits = "channel.close"
			r.feed(nil, []frame.Frame{text("%d channel.close reply-code=200", s.n)})
		}
	}
	r.settleAll()
	for _, s := range r.clients {
		if s.opened {
			r.t.Fatalf("channel %d waits for %q and %q", s.n, s.waits, s.doomed)
		}
	}
	for _, u := range r.links {
		for n, ch := range u.channels {
			if ch.state != modelClosed {
				r.t.Fatalf("link %d, channel %d is %s", u.index, n, ch.state)
			}
		}
	}
	if c := r.conns[0]; c.Grouped() || len(r.members) > 0 || c.Channels() > 0 {
		r.t.Fatalf("left are members %v, %d channels", r.members, c.Channels())
	}
	for queue, n := range r.seats {
		if n != 0 {
			r.t.Fatalf("%q is held %d times", queue, n)
		}
	}
}
