package intercept

import (
	"fmt"
	"slices"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

// upstreams are the queues of all brokers, and what the brokers have sent of them.
type upstreams struct {
	t      *rapid.T
	links  []*upstream         // the home link is the last
	queues map[string][]stored // what is ready
	serial int
	given  map[string]*given // by routing key, of which no two are the same
	acts   []act             // of the Conn, since they were looked at
}

type stored struct {
	id          int // rises in each queue
	redelivered bool
}

// given is a message as a broker has sent it once.
type given struct {
	stored
	ch       *upChannel
	consumer *upConsumer // nil: it was got
	queue    string
	tag      uint64
	noAck    bool
	home     bool
	method   frame.Frame
	came     bool // to the client
}

// act is what a broker understands by an ack, nack or reject.
type act struct {
	what    *given
	method  frame.Method
	requeue bool
}

// upstream is the broker's end of a link; its index is -1 for the home link.
type upstream struct {
	*upstreams
	index    int
	channels map[uint16]*upChannel
	toConn   []frame.Frame
}

type upChannel struct {
	number    uint16
	state     modelState
	gone      bool // the Conn knows that it is no more
	prefetch  int  // of the next consumer
	consumers []*upConsumer
	tags      uint64
	unacked   []*given // when it was closed too
}

type upConsumer struct {
	tag, queue       string
	noAck, exclusive bool
	limit            int
}

func (u *upstream) say(n uint16, format string, args ...any) {
	u.toConn = append(u.toConn, text("%d %s", n, fmt.Sprintf(format, args...)))
}

// take takes a frame of the Conn's.
func (u *upstream) take(f frame.Frame) {
	n := f.Channel()
	ch := u.channels[n]
	switch m := f.Method(); {
	case m == frame.ChannelOpen:
		if ch != nil && ch.state != modelClosed {
			u.t.Fatalf("link %d: %v, and it is %s", u.index, f, ch.state)
		}
		u.channels[n] = &upChannel{number: n, state: modelOpen}
		u.say(n, "channel.open-ok")
	case ch == nil || ch.state == modelClosed:
		u.t.Fatalf("link %d: %v on a channel that is closed", u.index, f)
	case m == frame.ChannelClose:
		if ch.state == modelOpen {
			u.end(ch, modelClosed)
		}
		ch.gone = true
		u.say(n, "channel.close-ok")
	case m == frame.ChannelCloseOk:
		ch.state = modelClosed
	case m == frame.BasicAck || m == frame.BasicNack || m == frame.BasicReject:
		u.settle(ch, f)
	case ch.state == modelOpen:
		u.method(ch, f)
	}
}

func (u *upstream) method(ch *upChannel, f frame.Frame) {
	a, n := f.Args(), ch.number
	switch f.Method() {
	case frame.BasicQos:
		a.Long()
		ch.prefetch = int(a.Short())
		u.say(n, "basic.qos-ok")
	case frame.QueueDeclare:
		a.Short()
		queue := string(a.ShortStr())
		u.say(n, "queue.declare-ok queue=%q consumer-count=%d", queue, len(u.consuming(queue)))
	case frame.BasicConsume:
		u.consume(ch, f)
	case frame.BasicCancel:
		tag := string(a.ShortStr())
		ch.consumers = slices.DeleteFunc(ch.consumers, func(k *upConsumer) bool { return k.tag == tag })
		u.say(n, "basic.cancel-ok consumer-tag=%q", tag)
	case frame.BasicRecover, frame.BasicRecoverAsync:
		u.requeue(ch)
		if f.Method() == frame.BasicRecover {
			u.say(n, "basic.recover-ok")
		}
	case frame.BasicGet:
		a.Short()
		if queue := string(a.ShortStr()); len(u.queues[queue]) > 0 {
			u.give(ch, nil, queue, a.Octet()&getNoAck != 0)
		} else {
			u.say(n, "basic.get-empty")
		}
	default:
		u.t.Fatalf("link %d: the broker has no answer to %v", u.index, f)
	}
}

func (u *upstream) consume(ch *upChannel, f frame.Frame) {
	a := f.Args()
	a.Short()
	k := &upConsumer{queue: string(a.ShortStr()), tag: string(a.ShortStr()), limit: ch.prefetch}
	flags := a.Octet()
	k.noAck, k.exclusive = flags&consumeNoAck != 0, flags&consumeExclusive != 0
	switch others := u.consuming(k.queue); {
	case slices.ContainsFunc(others, func(o *upConsumer) bool { return o.exclusive || k.exclusive }):
		u.refuse(ch, fmt.Sprintf(`reply-code=403 reply-text="ACCESS_REFUSED - queue '%s' in vhost '/' in exclusive use"`, k.queue))
	case slices.ContainsFunc(ch.consumers, func(o *upConsumer) bool { return o.tag == k.tag }):
		u.t.Fatalf("link %d: %v, and the tag is in use: the connection ends", u.index, f)
	default:
		ch.consumers = append(ch.consumers, k)
		u.say(ch.number, "basic.consume-ok consumer-tag=%q", k.tag)
	}
}

// consuming are the consumers of a queue, on all links.
func (u *upstreams) consuming(queue string) (found []*upConsumer) {
	for _, l := range u.links {
		for _, ch := range l.channels {
			for _, k := range ch.consumers {
				if k.queue == queue {
					found = append(found, k)
				}
			}
		}
	}
	return found
}

// refuse has the broker close a channel.
func (u *upstream) refuse(ch *upChannel, why string) {
	u.end(ch, modelClosing)
	u.say(ch.number, "channel.close %s", why)
}

// end ends a channel for the broker: what it had is to be delivered again.
func (u *upstream) end(ch *upChannel, state modelState) {
	had := slices.Clone(ch.unacked)
	u.requeue(ch)
	ch.state, ch.consumers, ch.unacked = state, nil, had
}

func (u *upstream) requeue(ch *upChannel) {
	for _, g := range ch.unacked {
		u.back(g)
	}
	ch.unacked = nil
}

// back puts a message where it was in its queue.
func (u *upstreams) back(g *given) {
	q := append(slices.Clone(u.queues[g.queue]), stored{id: g.id, redelivered: true})
	slices.SortFunc(q, func(a, b stored) int { return a.id - b.id })
	u.queues[g.queue] = q
}

// settle notes what the Conn settles. On a channel that the broker has closed it counts no
// more, but must not say anything else for that.
func (u *upstream) settle(ch *upChannel, f frame.Frame) {
	a := f.Args()
	tag, bits := a.LongLong(), a.Octet()
	multiple := f.Method() != frame.BasicReject && bits&1 != 0
	requeue := f.Method() == frame.BasicReject && bits&1 != 0 || f.Method() == frame.BasicNack && bits&2 != 0
	if !slices.ContainsFunc(ch.unacked, func(g *given) bool { return g.tag == tag }) && (tag > 0 || !multiple) {
		u.t.Fatalf("link %d: %v: unknown delivery tag", u.index, f)
	}
	ch.unacked = slices.DeleteFunc(ch.unacked, func(g *given) bool {
		if g.tag != tag && !(multiple && (g.tag < tag || tag == 0)) {
			return false
		}
		u.acts = append(u.acts, act{g, f.Method(), requeue})
		if requeue && ch.state == modelOpen {
			u.back(g)
		}
		return true
	})
}

// give sends a message; k is nil for one that was got.
func (u *upstream) give(ch *upChannel, k *upConsumer, queue string, noAck bool) {
	u.serial++
	ch.tags++
	key := fmt.Sprint(u.serial)
	g := &given{stored: u.queues[queue][0], ch: ch, consumer: k, queue: queue, tag: ch.tags, noAck: noAck, home: u.index < 0}
	u.queues[queue] = u.queues[queue][1:]
	redelivered := 0
	if g.redelivered {
		redelivered = 1
	}
	what := "basic.get-ok"
	if k != nil {
		what = fmt.Sprintf("basic.deliver consumer-tag=%q", k.tag)
	}
	frames := message(u.t, "headers={}", "%d %s delivery-tag=%d redelivered=%d exchange=%q routing-key=%q", ch.number, what, g.tag, redelivered, queue, key)
	g.method = frames[0]
	u.given[key] = g
	if !noAck {
		ch.unacked = append(ch.unacked, g)
	}
	u.toConn = append(u.toConn, frames...)
}

// served is a consumer that may have a message, and its channel.
type served struct {
	link *upstream
	ch   *upChannel
	k    *upConsumer
}

// mayServe are the consumers for whom there are messages.
func (u *upstreams) mayServe() (found []served) {
	for _, l := range u.links {
		for n := range uint16(100) {
			ch := l.channels[n]
			if ch == nil {
				continue
			}
			for _, k := range ch.consumers {
				has := 0
				for _, g := range ch.unacked {
					if g.consumer == k {
						has++
					}
				}
				if len(u.queues[k.queue]) > 0 && (k.limit == 0 || has < k.limit) {
					found = append(found, served{l, ch, k})
				}
			}
		}
	}
	return found
}

// lose ends a link with all that is on its way.
func (u *upstream) lose() {
	for _, ch := range u.channels {
		ch.gone = true
		if ch.state == modelOpen {
			u.end(ch, modelClosed)
		}
	}
	u.channels, u.toConn = map[uint16]*upChannel{}, nil
}
