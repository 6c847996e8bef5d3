package intercept

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// script runs the input lines of a scenario on a Conn, one by one:
//
//	session [frame-max=N] [channel-max=N] [hears-cancel] [links=N] [login-unknown] [handover=D]
//	                            begin with a new Conn; the streams stay
//	policy NAME [OPTION]...     a definition for one name, which is no stream yet
//	stream NAME [shards=3] [local=2] [retired=N] [closing=N] [ended] [type=T] [durable=false]
//	       [asked-hash=H] [OPTION]...
//	                            retired and closing local shards are counted on behind the others
//	absent NAME                 there was no such exchange lately
//	other NAME                  it is an exchange of another kind
//	open N                      channel.open and open-ok, which are not shown
//	client FRAME, home FRAME    as frame.ParseText reads it; linkN FRAME: from link N
//	broker NODE [beside]        that node's broker can be reached, at NODE:5672
//	link N [up] [failed="..."] [refused="..."] [stalled] [lost] [stuck] [moves]
//	                            what has become of a link
//	answer [ok] [err=406] [text="..."] [queue="..."] [messages=N] [consumers=N] [member=N]
//	                            the answer to the oldest open errand
//	part MEMBER STREAM [NODE/INDEX]...
//	                            what a consumer of a group is to read; "gone" for STREAM: it is no more
//	written                     all that is for the client is written
//	tick D                      D later, the Conn is told the time
//	shutdown, linkdown, end     the end of the session, in three ways
//	status, counters [NAME]     show what the Conn says of itself, and the counters
//
// An OPTION is of a definition: hash-on, queue-declare, queue-bind, queue-purge,
// queue-delete, consumers, or a queue argument, which begins with x-; single: its shards
// serve one consumer at a time. Names that begin with
// "shard." match a policy with all defaults.
type script struct {
	t       *testing.T
	batched bool // consecutive frames of one side are one batch
	conn    *Conn
	out     Out
	snap    snapshot
	now     time.Time
	errands []Errand // not answered yet
	parts   map[uint64]shard.Part
	total   *shard.Counters

	side   string // where the frames in buffer come from
	buffer []byte // of the reader; every batch lies in it
	result []line
	sent   map[string][]byte // by destination
}

// line is one line of output; seen is how many inputs there were before.
type line struct {
	seen int
	text string
}

func newScript(t *testing.T, batched bool) *script {
	s := &script{t: t, batched: batched, now: time.Unix(0, 0), total: &shard.Counters{}, sent: map[string][]byte{}}
	s.snap.init()
	s.session(nil)
	return s
}

func (s *script) session(o options) {
	_, hears := o["hears-cancel"]
	_, unknown := o["login-unknown"]
	handover, _ := time.ParseDuration(cmp.Or(o["handover"], "5s"))
	s.parts = nil
	s.conn = New(Config{VHost: "/", HandoverTimeout: handover, KnowsLogin: !unknown, MaxLinks: o.num("links", 4), StallTimeout: 3 * time.Second,
		ConfirmTimeout: 30 * time.Second, WaitTimeout: 10 * time.Second,
		FrameMax: o.num("frame-max", 131072), ChannelMax: uint16(o.num("channel-max", 0)), HearsCancel: hears, Seed: 1}, s.snap.make(), s.total)
	s.errands = nil
}

// do runs input line number n.
func (s *script) do(n int, input string) {
	verb, rest, _ := strings.Cut(input, " ")
	if verb == "client" || verb == "home" || len(verb) == 5 && verb[:4] == "link" {
		if s.side != verb {
			s.flush(n - 1)
		}
		f, err := frame.ParseText(rest)
		if err != nil {
			s.t.Fatal(err)
		}
		s.side, s.buffer = verb, append(s.buffer, f...)
		if !s.batched {
			s.flush(n)
		}
		return
	}
	s.flush(n - 1)
	name, o := splitOptions(rest)
	if done := verb == "part" && s.part(strings.Fields(rest)); !done && !s.control(n, verb, name, o) {
		s.t.Fatalf("unknown line %q", input)
	}
	s.conn.EndBatch()
	s.take(n)
}

func (s *script) control(n int, verb, name string, o options) bool {
	switch verb {
	case "session":
		s.session(o)
	case "open":
		s.open(name)
	case "broker":
		_, beside := o["beside"]
		s.snap.brokers[name] = shard.Broker{Address: name + ":5672", Beside: beside}
		s.conn.Use(s.snap.make())
	case "link":
		return s.link(name, o)
	case "policy", "stream", "absent", "other":
		s.snap.add(verb, name, o)
		s.conn.Use(s.snap.make())
	case "answer":
		e := s.errands[0]
		s.errands = s.errands[1:]
		s.conn.Answered(o.answer(e), &s.out)
	case "written":
		s.conn.Written(s.conn.Unwritten(), &s.out)
	case "tick":
		d, err := time.ParseDuration(name)
		s.now = s.now.Add(d)
		s.conn.Tick(s.now, &s.out)
		return err == nil
	case "shutdown":
		s.conn.Shut(&frame.ConnError{Code: frame.ConnectionForced, Text: "shutdown"}, &s.out)
	case "linkdown":
		s.conn.HomeDown(&frame.ConnError{Code: frame.ConnectionForced, Text: "the broker is gone"}, &s.out)
	case "end":
		s.conn.End(&s.out)
	case "status":
		f := s.conn.Farewell()
		s.say(n, "channels=%d held=%d orderly=%v farewell=%q %d %q", s.conn.Channels(), s.conn.Held(), s.conn.Orderly(), f.By, f.Code, f.Text)
	case "counters":
		s.say(n, "%s", countersText(cmp.Or(s.snap.counters[name], s.total)))
	default:
		return false
	}
	return true
}

func countersText(k *shard.Counters) string {
	return fmt.Sprintf("published=%d delivered=%d confirmed=%d nacked=%d returned=%d rerouted=%d retried=%d dropped=%d refused=%d", k.Published.Load(),
		k.Delivered.Load(), k.Confirmed.Load(), k.Nacked.Load(), k.Returned.Load(), k.Rerouted.Load(), k.Retried.Load(), k.Dropped.Load(), k.Refused.Load())
}

// open opens a channel, as every client does before all else.
func (s *script) open(number string) {
	ask, answer := text("%s channel.open", number), text("%s channel.open-ok", number)
	if s.conn.FromClient(ask, &s.out) != nil || s.conn.FromHome(answer, &s.out) != nil ||
		!bytes.Equal(s.out.Home.AppendTo(nil), ask) || !bytes.Equal(s.out.Client.AppendTo(nil), answer) {
		s.t.Errorf("channel %s does not open", number)
	}
	s.out.Reset()
}

// link tells the Conn of a publish link.
func (s *script) link(number string, o options) bool {
	i := int(number[0] - '0')
	for what, text := range o {
		switch what {
		case "up":
			s.conn.LinkUp(i, uint16(o.num("channel-max", 0)), &s.out)
		case "failed":
			s.conn.LinkDown(i, Failed, text, &s.out)
		case "stalled":
			s.conn.LinkDown(i, Stalled, "", &s.out)
		case "refused":
			s.conn.LinkDown(i, Refused, text, &s.out)
		case "lost":
			s.conn.LinkDown(i, Lost, "", &s.out)
		case "stuck", "moves":
			s.conn.Stuck(i, what == "stuck")
		case "channel-max":
		default:
			return false
		}
	}
	return true
}

// flush gives the frames in the buffer to the Conn as one batch, takes what comes
// of it, and then writes over the buffer as the next read would.
func (s *script) flush(n int) {
	if s.batched {
		if err := feedWith(s.conn, s.side, s.buffer, &s.out); err != nil {
			s.say(n, "error %v", err)
		}
	}
	for _, f := range cut(s.buffer) {
		var err error
		if s.batched {
			break
		}
		switch s.side {
		case "client":
			err = s.conn.FromClient(f, &s.out)
		case "home":
			err = s.conn.FromHome(f, &s.out)
		default:
			err = s.conn.FromLink(int(s.side[4]-'0'), f, &s.out)
		}
		if err != nil {
			s.say(n, "error %v", err)
		}
	}
	s.conn.EndBatch()
	s.take(n)
	for i := range s.buffer {
		s.buffer[i] = 0xEE
	}
	s.buffer = s.buffer[:0]
}

// take writes down everything that is in the Out.
func (s *script) take(n int) {
	type destination struct {
		name  string
		bytes *Bytes
	}
	all := []destination{{"home", &s.out.Home}}
	for i := range s.out.Links() {
		all = append(all, destination{fmt.Sprint("link", i), s.out.Link(i)})
	}
	for _, to := range append(all, destination{"client", &s.out.Client}) {
		b := to.bytes.AppendTo(nil)
		if len(b) != to.bytes.Len() {
			s.t.Errorf("Len is %d, of %d octets for the %s", to.bytes.Len(), len(b), to.name)
		}
		for _, f := range cut(b) {
			s.result = append(s.result, line{n, to.name + " " + f.String()})
		}
		s.sent[to.name] = append(s.sent[to.name], b...)
	}
	for _, d := range s.out.Dials {
		reads := ""
		if d.Reads {
			reads = " reads"
		}
		s.say(n, "dial link%d %s %s as=%q%s", d.Link, d.Node, d.Address, d.As.User, reads)
	}
	for _, i := range s.out.Drops {
		s.say(n, "drop link%d", i)
	}
	for _, e := range s.out.Errands {
		s.say(n, "errand %s", errandText(e))
	}
	s.errands = append(s.errands, s.out.Errands...)
	slices.Sort(s.out.Released) // those of one channel come in any order
	for _, queue := range s.out.Released {
		s.say(n, "released %q", queue)
	}
	for _, queue := range s.out.Held {
		s.say(n, "holds %q", queue)
	}
	for _, queue := range s.out.Freed {
		s.say(n, "freed %q", queue)
	}
	s.takeGroups(n)
	for _, stream := range s.out.Abandoned {
		s.say(n, "abandoned %s", stream)
	}
	if s.out.Secret != nil {
		s.say(n, "secret %q", s.out.Secret)
	}
	if s.out.Done {
		s.say(n, "done")
	}
	s.out.Reset()
}

// say adds a line that is neither of the destinations'.
func (s *script) say(n int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.result = append(s.result, line{n, text})
	s.sent["else"] = append(s.sent["else"], text+"\n"...)
}

// text is a frame from its text.
func text(format string, args ...any) frame.Frame {
	f, err := frame.ParseText(fmt.Sprintf(format, args...))
	if err != nil {
		panic(err)
	}
	return f
}

// cut takes whole frames one after the other, each with a capacity to the end of
// the buffer, as a Reader gives them.
func cut(b []byte) (frames []frame.Frame) {
	for len(b) > 0 {
		n := frame.Overhead + int(b[3])<<24 + int(b[4])<<16 + int(b[5])<<8 + int(b[6])
		frames = append(frames, frame.Frame(b[:n]))
		b = b[n:]
	}
	return frames
}

func errandText(e Errand) string {
	kinds := [...]string{Learn: "learn", Declare: "declare", Delete: "delete", Make: "make", Forget: "forget", Join: "join", Pick: "pick", Count: "count", Purge: "purge", Destroy: "destroy"}
	text := fmt.Sprintf("%s %s ch=%d", kinds[e.Kind], e.Stream.Stream, e.Channel)
	if e.Kind == Make {
		text += fmt.Sprintf(" type=%s durable=%v", e.Declared.Type, e.Declared.Durable)
		if e.Declared.HashOn.Source != shard.HashUnset {
			text += " hash-on=" + e.Declared.HashOn.String()
		}
	}
	if e.Held {
		text += " held"
	}
	if e.Kind == Join {
		text += fmt.Sprintf(" tag=%q", e.Tag)
	}
	if e.Exclusive {
		text += " exclusive"
	}
	if e.IfUnused {
		text += " if-unused"
	}
	if e.IfEmpty {
		text += " if-empty"
	}
	return text
}

// options are the NAME=VALUE words of a line; a lone word is its value "".
type options map[string]string

var optionWord = regexp.MustCompile(`([a-z-]+)(?:=("(?:[^"\\]|\\.)*"|\S+))?`)

// splitOptions also gives the first word, which is a name in most lines.
func splitOptions(text string) (first string, o options) {
	first, _, _ = strings.Cut(text, " ")
	o = options{}
	for _, m := range optionWord.FindAllStringSubmatch(text, -1) {
		o[m[1]] = m[2]
		if unquoted, err := strconv.Unquote(m[2]); err == nil {
			o[m[1]] = unquoted
		}
	}
	return first, o
}

func (o options) num(name string, otherwise int) int {
	if n, err := strconv.Atoi(o[name]); err == nil {
		return n
	}
	return otherwise
}

func (o options) answer(e Errand) Answer {
	a := Answer{Channel: e.Channel, Serial: e.Serial, Queue: o["queue"],
		Member: uint64(o.num("member", 0)), Messages: uint32(o.num("messages", 0)), Consumers: uint32(o.num("consumers", 0))}
	if _, held := o["held"]; held {
		a.Held = e.Stream.Stream
	}
	if code := o.num("err", 0); code != 0 {
		a.Err = &frame.ChannelError{Code: uint16(code), Text: o["text"]}
	}
	return a
}
