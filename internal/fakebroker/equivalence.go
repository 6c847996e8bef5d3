package fakebroker

import (
	"fmt"

	"amqproxy/frame"
)

// sameAs refuses a declare that differs from the exchange that is there.
func (x *exchange) sameAs(want *exchange) error {
	called := x.vhost.called("exchange", x.name)
	for _, err := range []error{
		sameValue("type", called, x.kind, want.kind),
		sameValue("durable", called, x.durable, want.durable),
		sameValue("auto_delete", called, x.autoDelete, want.autoDelete),
		sameValue("internal", called, x.internal, want.internal),
		sameArg("alternate-exchange", called, x.args, want.args),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// sameAs refuses a declare that differs from the queue that is there.
func (q *queue) sameAs(want *queue) error {
	if q.owner != want.owner {
		return q.locked()
	}
	called := q.String()
	if err := sameValue("durable", called, q.durable, want.durable); err != nil {
		return err
	}
	if err := sameValue("auto_delete", called, q.autoDelete, want.autoDelete); err != nil {
		return err
	}
	for _, a := range arguments {
		if a.name == "x-queue-type" && queueType(q.args) == queueType(want.args) {
			continue // classic is the same as none
		}
		if err := sameArg(a.name, called, q.args, want.args); err != nil {
			return err
		}
	}
	return nil
}

// sameArg compares an argument of what is there with one of a declare.
func sameArg(name, called string, now, received frame.Table) error {
	a, had, _ := now.Find(name)
	b, has, _ := received.Find(name)
	if had == has && (!had || sameField(a, b)) {
		return nil
	}
	_, isInt := a.Int()
	_, isIntToo := b.Int()
	alike := had && has && (a.Type == b.Type || isInt && isIntToo)
	show := func(f frame.Field, found bool) string {
		value, _ := f.Text()
		switch {
		case !found:
			return "none"
		case alike:
			return "'" + value + "'"
		}
		return fmt.Sprintf("the value '%s' of type '%s'", value, typeNames[f.Type])
	}
	return inequivalent(name, called, show(b, has), show(a, had))
}

// sameValue compares a property of what is there with one of a declare.
func sameValue[T comparable](name, called string, now, received T) error {
	if now == received {
		return nil
	}
	return inequivalent(name, called, fmt.Sprintf("'%v'", received), fmt.Sprintf("'%v'", now))
}

func inequivalent(name, called, received, now string) error {
	return refuse(frame.PreconditionFailed, "inequivalent arg '%s' for %s: received %s but current is %s", name, called, received, now)
}
