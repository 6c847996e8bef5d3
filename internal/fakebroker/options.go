package fakebroker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"amqproxy/frame"
)

// options are what a queue's arguments say.
type options struct {
	ttl, expires        time.Duration // below 0, and 0, are none
	maxLength, maxBytes int           // below 0 is none
	rejects             bool          // what comes when it is full, and drops no other
	lettersRejected     bool          // and dead-letters it
	letters             bool          // there is a dead-letter exchange
	letterTo            string        // it
	letterKey           string
	letterWithKey       bool // letterKey is the key of dead letters
	single              bool // one consumer is active at a time
	maxPriority         int
}

// checked are the arguments that a queue is compared by, in the order in which RabbitMQ
// does, and what reads each into options. Others are ignored.
var checked = []struct {
	name string
	read func(*options, frame.Field) (fault string)
}{
	{"x-expires", func(o *options, f frame.Field) string {
		n, fault := number(f, 1)
		o.expires = time.Duration(n) * time.Millisecond
		return fault
	}},
	{"x-message-ttl", func(o *options, f frame.Field) string {
		n, fault := number(f, 0)
		o.ttl = time.Duration(n) * time.Millisecond
		return fault
	}},
	{"x-dead-letter-exchange", func(o *options, f frame.Field) string {
		o.letters, o.letterTo = true, string(f.Value)
		return text(f)
	}},
	{"x-dead-letter-routing-key", func(o *options, f frame.Field) string {
		o.letterWithKey, o.letterKey = true, string(f.Value)
		return text(f)
	}},
	{"x-max-length", func(o *options, f frame.Field) (fault string) {
		o.maxLength, fault = number(f, 0)
		return fault
	}},
	{"x-max-length-bytes", func(o *options, f frame.Field) (fault string) {
		o.maxBytes, fault = number(f, 0)
		return fault
	}},
	{"x-overflow", func(o *options, f frame.Field) string {
		o.lettersRejected = string(f.Value) == "reject-publish-dlx"
		o.rejects = o.lettersRejected || string(f.Value) == "reject-publish"
		return oneOf(f, "drop-head", "reject-publish", "reject-publish-dlx")
	}},
	{"x-single-active-consumer", func(o *options, f frame.Field) string {
		if f.Type != 't' {
			return unacceptable(f)
		}
		o.single = f.Value[0] != 0
		return ""
	}},
	{"x-max-priority", func(o *options, f frame.Field) (fault string) {
		if o.maxPriority, fault = number(f, 0); fault == "" && o.maxPriority > 255 {
			return fmt.Sprintf("{max_value_exceeded,%d}", o.maxPriority)
		}
		return fault
	}},
	{"x-queue-mode", func(_ *options, f frame.Field) string { return oneOf(f, "default", "lazy") }},
	{"x-queue-type", func(_ *options, f frame.Field) string { return text(f) }},
}

// readOptions reads a queue's arguments.
func readOptions(args frame.Table, called string) (options, error) {
	o := options{ttl: -1, maxLength: -1, maxBytes: -1}
	for _, c := range checked {
		f, found, _ := args.Find(c.name)
		if !found {
			continue
		}
		if fault := c.read(&o, f); fault != "" {
			return o, refuse(frame.PreconditionFailed, "invalid arg '%s' for %s: %s", c.name, called, fault)
		}
	}
	if o.letterWithKey && !o.letters {
		return o, refuse(frame.PreconditionFailed, "invalid arg 'x-dead-letter-routing-key' for %s: routing_key_but_no_dlx_defined", called)
	}
	return o, nil
}

// number reads an integer that must be so large.
func number(f frame.Field, least int64) (n int, fault string) {
	v, ok := f.Int()
	switch {
	case !ok || f.Type == 'T':
		return 0, unacceptable(f)
	case v < 0:
		return 0, fmt.Sprintf("{value_negative,%d}", v)
	case v < least:
		return 0, fmt.Sprintf("{value_zero,%d}", v)
	}
	return int(v), ""
}

func text(f frame.Field) string {
	if f.Type != 'S' {
		return unacceptable(f)
	}
	return ""
}

func oneOf(f frame.Field, values ...string) string {
	if f.Type != 'S' {
		return unacceptable(f)
	}
	if !slices.Contains(values, string(f.Value)) {
		return fmt.Sprintf("{invalid_%s,<<%q>>}", strings.SplitN(values[0], "-", 2)[0], f.Value)
	}
	return ""
}

func unacceptable(f frame.Field) string { return "{unacceptable_type," + typeNames[f.Type] + "}" }

// typeNames are RabbitMQ's names of the types of fields.
var typeNames = map[byte]string{
	't': "bool", 'b': "byte", 'B': "unsignedbyte", 's': "short", 'u': "unsignedshort", 'I': "signedint",
	'i': "unsignedint", 'l': "long", 'f': "float", 'd': "double", 'D': "decimal", 'S': "longstr",
	'A': "array", 'T': "timestamp", 'F': "table", 'V': "void", 'x': "binary",
}

// sameArg compares an argument of what is there with one of a declare.
func sameArg(name, called string, now, received frame.Table) error {
	a, had, _ := now.Find(name)
	b, has, _ := received.Find(name)
	if had == has && (!had || sameField(a, b)) {
		return nil
	}
	show := func(f frame.Field, found bool) string {
		if !found {
			return "none"
		}
		value, _ := f.Text()
		return fmt.Sprintf("the value '%s' of type '%s'", value, typeNames[f.Type])
	}
	return inequivalent(name, called, show(b, has), show(a, had))
}

func inequivalent(name, called, received, now string) error {
	return refuse(frame.PreconditionFailed, "inequivalent arg '%s' for %s: received %s but current is %s", name, called, received, now)
}

// sameValue compares a property of what is there with one of a declare.
func sameValue[T comparable](name, called string, now, received T) error {
	if now == received {
		return nil
	}
	return inequivalent(name, called, fmt.Sprintf("'%v'", received), fmt.Sprintf("'%v'", now))
}
