package fakebroker

import (
	"bytes"
	"slices"

	"amqproxy/frame"
)

// exchange is one exchange, with the bindings that begin and that end at it.
type exchange struct {
	vhost                         *vhost
	name, kind                    string
	durable, autoDelete, internal bool
	args                          frame.Table
	alternate                     string // "" for none

	bindings map[string][]*binding // that begin here, by key
	bound    []*binding            // that end here
	ring     []point               // of a consistent-hash exchange; nil when it is to be made
	stamp    uint64                // of the last message that was here
}

// binding leads from an exchange to a queue or another exchange.
type binding struct {
	from  *exchange
	queue *queue    // or
	to    *exchange // nil
	key   string
	args  frame.Table
}

// same tells whether two bindings are the same to the protocol.
func (b *binding) same(o *binding) bool {
	return b.from == o.from && b.queue == o.queue && b.to == o.to && b.key == o.key && bytes.Equal(b.args, o.args)
}

// bind adds a binding, unless there is the same.
func (b *binding) bind() {
	x := b.from
	if slices.ContainsFunc(x.bindings[b.key], b.same) {
		return
	}
	if x.bindings == nil {
		x.bindings = map[string][]*binding{}
	}
	x.bindings[b.key] = append(x.bindings[b.key], b)
	x.ring = nil
	end := b.end()
	*end = append(*end, b)
}

// end is where the queue or exchange that b ends at keeps it.
func (b *binding) end() *[]*binding {
	if b.queue != nil {
		return &b.queue.bound
	}
	return &b.to.bound
}

// unbind removes the binding that is the same, if there is one, and an exchange that is
// left without any if it wants to.
func (b *binding) unbind() {
	x := b.from
	at := slices.IndexFunc(x.bindings[b.key], b.same)
	if at < 0 {
		return
	}
	x.bindings[b.key] = slices.Delete(x.bindings[b.key], at, at+1)
	if len(x.bindings[b.key]) == 0 {
		delete(x.bindings, b.key)
	}
	x.ring = nil
	end := b.end()
	*end = slices.DeleteFunc(*end, b.same)
	if x.autoDelete && len(x.bindings) == 0 {
		x.delete()
	}
}

// delete deletes the exchange with all its bindings.
func (x *exchange) delete() {
	if x.vhost.exchanges[x.name] != x {
		return
	}
	delete(x.vhost.exchanges, x.name)
	for _, some := range x.bindings {
		for _, b := range slices.Clone(some) {
			b.unbind()
		}
	}
	for _, b := range slices.Clone(x.bound) {
		b.unbind()
	}
}

// route finds the queues for a message, each once.
func (v *vhost) route(x *exchange, m *message) (queues []*queue) {
	v.stamp++
	toQueue := func(q *queue) {
		if q != nil && q.stamp != v.stamp {
			q.stamp = v.stamp
			queues = append(queues, q)
		}
	}
	todo := []*exchange{x}
	toExchange := func(x *exchange) {
		if x != nil && x.stamp != v.stamp {
			x.stamp = v.stamp
			todo = append(todo, x)
		}
	}
	x.stamp = v.stamp
	for len(todo) > 0 {
		x, todo = todo[0], todo[1:]
		matched := false
		if x.name == "" {
			for _, key := range m.keys {
				toQueue(v.queues[key])
				matched = matched || v.queues[key] != nil
			}
		}
		x.match(m, func(b *binding) {
			matched = true
			toQueue(b.queue)
			toExchange(b.to)
		})
		if !matched && x.alternate != "" {
			toExchange(v.exchanges[x.alternate])
		}
	}
	return queues
}
