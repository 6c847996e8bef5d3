package intercept

import (
	"bytes"
	"slices"
	"strings"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

// settler is a client that consumes on a channel, of groups and of an ordinary queue, and
// settles what it gets in every way.
type settler struct {
	t         *rapid.T
	n         uint16
	opened    bool
	waits     string // the method that is to be answered before it does anything else
	ends      string // the consumer that it cancels
	doomed    string // what is said when its channel is closed, which is to come
	closed    bool   // it is to say channel.close-ok
	down      assembler
	last      uint64 // delivery tag
	consumers map[string]*settlerConsumer
	unsettled []owned
	older     []owned  // of the home link, from before there were other links, that it thinks settled
	quiet     []*given // of no-ack consumers of groups, that the Conn has not been told to be written
	limit     int      // of new consumers
	limitAll  int
}

func newSettler(t *rapid.T, n int) *settler {
	return &settler{t: t, n: uint16(n), consumers: map[string]*settlerConsumer{}}
}

type settlerConsumer struct {
	noAck, home bool
	limit       int
	order       map[string]int // the last message of each queue
}

// owned is a message that the client has not settled.
type owned struct {
	*given
	as       uint64 // its delivery tag
	consumer *settlerConsumer
	void     bool // it came behind a recover and before the answer
}

// take takes a frame of the Conn's.
func (s *settler) take(f frame.Frame, all *upstreams, base uint64) {
	s.down.take(s.t, f)
	if f.Type() != frame.TypeMethod {
		return
	}
	a := f.Args()
	switch m := f.Method(); m {
	case frame.BasicDeliver:
		tag := string(a.ShortStr())
		if s.consumers[tag] == nil {
			s.t.Fatalf("%v, and there is no such consumer", f)
		}
		s.gets(f, all, s.consumers[tag], base)
	case frame.BasicGetOk:
		s.gets(f, all, nil, base)
		s.answered("basic.get")
	case frame.BasicGetEmpty:
		s.answered("basic.get")
	case frame.BasicRecoverOk:
		s.unsettled = slices.DeleteFunc(s.unsettled, func(o owned) bool { return o.void })
		s.answered("basic.recover")
	case frame.BasicCancelOk:
		delete(s.consumers, s.ends)
		s.answered("basic.cancel")
	case frame.ChannelClose:
		a.Short()
		if words := string(a.ShortStr()); words != s.doomed {
			s.t.Fatalf("%v, and due is %q", f, s.doomed)
		}
		s.closed = true
	case frame.ChannelCloseOk:
		s.answered("channel.close")
		*s = *newSettler(s.t, int(s.n))
	default:
		s.answered((m - 1).String())
	}
}

func (s *settler) answered(what string) {
	if what != s.waits {
		s.t.Fatalf("an answer to %s, and due is that to %q", what, s.waits)
	}
	s.waits = ""
}

// gets takes a message: it is what a broker has sent and thinks to be there, for the first
// time; its delivery tag is the next; the client may have one more.
func (s *settler) gets(f frame.Frame, all *upstreams, k *settlerConsumer, base uint64) {
	at := frame.TagAt(f)
	a := f.Args()
	if f.Method() == frame.BasicDeliver {
		a.ShortStr()
	}
	tag := a.LongLong()
	a.Octet()
	a.ShortStr()
	g := all.given[string(a.ShortStr())]
	same := slices.Clone(f)
	same.SetChannel(g.ch.number)
	copy(same[at:at+8], g.method[at:])
	if f.Method() == frame.BasicDeliver { // the consumer tag may begin with a letter in the other case
		if own := same[frame.DeliverTag:at]; bytes.EqualFold(own, g.method[frame.DeliverTag:at]) {
			copy(own, g.method[frame.DeliverTag:at])
		}
	}
	switch {
	case tag != s.last+1:
		s.t.Fatalf("%v behind tag %d", f, s.last)
	case string(same) != string(g.method):
		s.t.Fatalf("%v, and the broker said %v", f, g.method)
	case g.came:
		s.t.Fatalf("%v comes twice", f)
	case g.ch.gone && !g.home && k != nil: // one that was got may have waited for the end of another message
		s.t.Fatalf("%v comes of a reader that is no more", f)
	case !g.noAck && !g.home && g.ch.state == modelOpen && !slices.Contains(g.ch.unacked, g):
		s.t.Fatalf("%v was given back to the broker", f)
	case k != nil && !g.redelivered && g.id <= k.order[g.queue]:
		s.t.Fatalf("%v is message %d, behind %d", f, g.id, k.order[g.queue])
	}
	if k != nil {
		k.order[g.queue] = max(k.order[g.queue], g.id)
	}
	s.last, g.came = tag, true
	switch {
	case g.noAck:
	case k != nil && k.noAck:
		s.quiet = append(s.quiet, g)
	default:
		s.mayHave(k, base)
		s.unsettled = append(s.unsettled, owned{g, tag, k, s.waits == "basic.recover" && g.home})
	}
}

// mayHave fails if the client has as much as it asked for already.
func (s *settler) mayHave(k *settlerConsumer, base uint64) {
	if k == nil || k.home {
		return
	}
	has, fed := 0, 0
	for _, o := range s.unsettled {
		if o.consumer == k {
			has++
		}
		if o.as > base {
			fed++
		}
	}
	if k.limit > 0 && has >= k.limit || s.limitAll > 0 && fed >= s.limitAll {
		s.t.Fatalf("one more for a client that has %d of %d, and %d of %d on the channel", has, k.limit, fed, s.limitAll)
	}
}

// settlement draws an ack, nack or reject of something that the client has, and what the
// brokers are to understand by it: nothing of a reader that is no more. all is whether the
// home link may be told of everything, which means also what is on its way.
func (s *settler) settlement(base uint64, all bool) (f frame.Frame, want []act) {
	method := rapid.SampledFrom([]string{"ack", "ack", "ack", "nack", "nack requeue=1", "reject", "reject requeue=1"}).Draw(s.t, "settlement")
	from := rapid.IntRange(0, len(s.unsettled)-1).Draw(s.t, "delivery")
	to, tag := from+1, s.unsettled[from].as
	f = text("%d basic.%s delivery-tag=%d", s.n, method, tag)
	a := act{method: f.Method(), requeue: strings.Contains(method, "requeue")}
	multiple := a.method != frame.BasicReject && rapid.Bool().Draw(s.t, "multiple")
	if multiple {
		from = 0
		if all && to == len(s.unsettled) && rapid.Bool().Draw(s.t, "all") {
			tag = 0
		}
		f = text("%d basic.%s delivery-tag=%d multiple=1", s.n, method, tag)
	}
	settled := s.unsettled[from:to]
	home := slices.ContainsFunc(settled, func(o owned) bool { return o.home && o.as > base })
	if multiple && tag > base && !home { // see settleTo
		for _, o := range settled {
			if o.home {
				s.older = append(s.older, o)
			}
		}
	} else if multiple {
		settled = append(s.older, settled...)
		s.older = nil
	}
	for _, o := range settled {
		if !o.ch.gone && !slices.Contains(s.older, o) {
			a.what = o.given
			want = append(want, a)
		}
	}
	s.unsettled = slices.Delete(slices.Clone(s.unsettled), from, to)
	return f, want
}
