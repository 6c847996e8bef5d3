package intercept

import (
	"slices"

	"amqproxy/frame"
)

// quiet is which deliveries of the home leg are not to be settled. Where readers bring
// messages too an ack of several becomes one for the home leg, and that must name a message
// which can be settled.
type quiet struct {
	consumers []string // their tags
	consumes  []bool   // whose answers are due, in order: whether they are with no-ack
	gets      []bool   // the same, once the channel has a feed
}

// asks notes what goes up.
func (q *quiet) asks(f frame.Frame, feed bool) {
	a := f.Args()
	a.Short()
	a.ShortStr()
	switch f.Method() {
	case frame.BasicConsume:
		tag, flags := a.ShortStr(), a.Octet()
		if noAck := flags&consumeNoAck != 0; flags&consumeNoWait != 0 {
			q.consumer(string(tag), noAck)
		} else {
			q.consumes = append(q.consumes, noAck)
		}
	case frame.BasicGet:
		if feed {
			q.gets = append(q.gets, a.Octet()&getNoAck != 0)
		}
	}
}

// consumed takes a consume-ok, which tells the tag.
func (q *quiet) consumed(f frame.Frame) {
	a := f.Args()
	q.consumer(string(a.ShortStr()), first(&q.consumes))
}

// got takes the answer to a get and tells whether that was with no-ack.
func (q *quiet) got() bool { return first(&q.gets) }

func (q *quiet) consumer(tag string, noAck bool) {
	q.consumers = slices.DeleteFunc(q.consumers, func(t string) bool { return t == tag })
	if noAck {
		q.consumers = append(q.consumers, tag)
	}
}

// ended takes a cancel-ok or the broker's cancel: nothing of the consumer's comes behind it.
func (q *quiet) ended(f frame.Frame) {
	a := f.Args()
	q.consumer(string(a.ShortStr()), false)
}

// delivers tells whether a delivery is one that is not to be settled.
func (q *quiet) delivers(f frame.Frame) bool {
	a := f.Args()
	tag := a.ShortStr()
	return slices.ContainsFunc(q.consumers, func(t string) bool { return t == string(tag) })
}

// first takes the first one out of a list; false if there is none.
func first(list *[]bool) (is bool) {
	if len(*list) > 0 {
		is, *list = (*list)[0], (*list)[1:]
	}
	return is
}
