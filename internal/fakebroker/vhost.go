package fakebroker

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"amqproxy/frame"
)

// vhost is all that is declared and stored under one name.
//
// Its lock guards everything below it: exchanges, queues, consumers, and of its
// connections the channels with all that they hold. The goroutines that take it are
// the readers of its connections, for one frame at a time; their writers, to go on
// with deliveries; and the vhost's clock. Under it only leaves are locked: outboxes
// and the Server's control.
type vhost struct {
	name    string
	control *control
	taken   func(queue, tag string) // nil is nobody
	sooner  chan struct{}           // the first alarm has become another

	mu        sync.Mutex
	exchanges map[string]*exchange
	queues    map[string]*queue
	alarms    alarms
	stamp     uint64 // of the last message that was routed
}

func newVHost(name string, c *control) *vhost {
	v := &vhost{name: name, control: c, sooner: make(chan struct{}, 1), exchanges: map[string]*exchange{}, queues: map[string]*queue{}}
	for name, kind := range map[string]string{
		"": "direct", "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic",
		"amq.headers": "headers", "amq.match": "headers",
	} {
		v.exchanges[name] = &exchange{vhost: v, name: name, kind: kind, durable: true}
	}
	v.exchanges["amq.rabbitmq.trace"] = &exchange{vhost: v, name: "amq.rabbitmq.trace", kind: "topic", durable: true, internal: true}
	return v
}

// called is how RabbitMQ names an exchange or queue in its errors.
func (v *vhost) called(kind, name string) string {
	return fmt.Sprintf("%s '%s' in vhost '%s'", kind, name, v.name)
}

func (v *vhost) missing(kind, name string) error {
	return refuse(frame.NotFound, "no %s", v.called(kind, name))
}

// isMissing tells whether something is refused because it is not there. To unbind it
// is well then.
func isMissing(err error) bool {
	var refused *frame.ChannelError
	return errors.As(err, &refused) && refused.Code == frame.NotFound
}

// refuse makes a channel error; the method is put in where it is sent.
func refuse(code uint16, format string, args ...any) error {
	return &frame.ChannelError{Code: code, Text: fmt.Sprintf(format, args...)}
}

// queue finds a queue that a connection wants to use.
func (v *vhost) queue(name string, by *conn) (*queue, error) {
	q := v.queues[name]
	switch {
	case q == nil:
		return nil, v.missing("queue", name)
	case v.control.isDown(name):
		return nil, refuse(frame.NotFound, "home node 'fakebroker@down' of durable %s is down or inaccessible", v.called("queue", name))
	case q.owner != nil && q.owner != by:
		return nil, q.locked()
	}
	return q, nil
}

func (v *vhost) exchange(name string) (*exchange, error) {
	x := v.exchanges[name]
	if x == nil {
		return nil, v.missing("exchange", name)
	}
	return x, nil
}

// forget deletes what a connection had for itself.
func (v *vhost) forget(c *conn) {
	for _, q := range v.queues {
		if q.owner == c {
			q.delete()
		}
	}
}

// publish stores a message in all queues that it is routed to, and tells whether there
// are any, and whether all of them took it.
func (v *vhost) publish(x *exchange, m *message, now time.Time) (routed, taken bool) {
	return v.store(v.route(x, m), m, now)
}

func (v *vhost) store(queues []*queue, m *message, now time.Time) (routed, taken bool) {
	taken = true
	for _, q := range queues {
		if v.control.isDown(q.name) || !q.push(m, now) {
			taken = false
		}
	}
	return len(queues) > 0, taken
}
