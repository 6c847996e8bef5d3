package fakebroker

import (
	"fmt"
	"slices"
	"time"

	"amqproxy/frame"
)

// maxMilliseconds is the longest time that a message or queue may live: ten years.
const maxMilliseconds = 10 * 365 * 24 * 3600 * 1000

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

// argument is one that a queue is compared by, and what reads it into options.
type argument struct {
	name string
	read func(*options, frame.Field) (fault string)
}

// arguments are in the order in which RabbitMQ looks at them. Others are ignored.
var arguments = []argument{
	{"x-expires", func(o *options, f frame.Field) string {
		n, fault := number(f, 1, maxMilliseconds)
		o.expires = time.Duration(n) * time.Millisecond
		return fault
	}},
	{"x-message-ttl", func(o *options, f frame.Field) string {
		n, fault := number(f, 0, maxMilliseconds)
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
		o.maxLength, fault = number(f, 0, 1<<62)
		return fault
	}},
	{"x-max-length-bytes", func(o *options, f frame.Field) (fault string) {
		o.maxBytes, fault = number(f, 0, 1<<62)
		return fault
	}},
	{"x-max-priority", func(o *options, f frame.Field) (fault string) {
		o.maxPriority, fault = number(f, 0, 255)
		return fault
	}},
	{"x-overflow", func(o *options, f frame.Field) string {
		o.lettersRejected = string(f.Value) == "reject-publish-dlx"
		o.rejects = o.lettersRejected || string(f.Value) == "reject-publish"
		return oneOf(f, "invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx")
	}},
	{"x-queue-mode", func(_ *options, f frame.Field) string {
		return oneOf(f, fmt.Sprintf(`"unsupported queue mode '%s'"`, f.Value), "default", "lazy")
	}},
	{"x-single-active-consumer", func(o *options, f frame.Field) string {
		if f.Type != 't' {
			return unacceptable(f)
		}
		o.single = f.Value[0] != 0
		return ""
	}},
	{"x-queue-type", func(_ *options, f frame.Field) string {
		return oneOf(f, fmt.Sprintf(`"unsupported queue type '%s'"`, f.Value), "classic", "quorum", "stream")
	}},
	{"x-queue-master-locator", func(_ *options, f frame.Field) string { return text(f) }},
}

// foreign are the arguments that a type of queue does not take.
var foreign = map[string][]string{
	"classic": {"x-delivery-limit", "x-max-in-memory-length", "x-max-in-memory-bytes", "x-quorum-initial-group-size",
		"x-queue-leader-locator", "x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size"},
	"quorum": {"x-max-priority", "x-queue-mode", "x-queue-master-locator"},
}

// queueType is what a queue's arguments say of its type.
func queueType(args frame.Table) string {
	f, found, _ := args.Find("x-queue-type")
	if !found {
		return "classic"
	}
	return string(f.Value)
}

// readOptions reads a queue's arguments.
func readOptions(args frame.Table, called string) (options, error) {
	o := options{ttl: -1, maxLength: -1, maxBytes: -1}
	kind := queueType(args)
	if kind == "stream" {
		return o, &frame.ConnError{Code: frame.NotImplemented, Text: "queues of type stream"}
	}
	if f, found, _ := args.Find("x-dead-letter-exchange"); found && f.Type != 'S' {
		return o, refuse(frame.PreconditionFailed, "invalid type '%s' for arg 'x-dead-letter-exchange' in %s", typeNames[f.Type], called)
	}
	for _, name := range foreign[kind] {
		if _, found, _ := args.Find(name); found {
			return o, refuse(frame.PreconditionFailed, "invalid arg '%s' for %s of queue type rabbit_%s_queue", name, called, kind)
		}
	}
	for _, a := range arguments {
		f, found, _ := args.Find(a.name)
		if !found {
			continue
		}
		if fault := a.read(&o, f); fault != "" {
			return o, refuse(frame.PreconditionFailed, "invalid arg '%s' for %s: %s", a.name, called, fault)
		}
	}
	if o.letterWithKey && !o.letters {
		return o, refuse(frame.PreconditionFailed, "invalid arg 'x-dead-letter-routing-key' for %s: routing_key_but_no_dlx_defined", called)
	}
	return o, nil
}

// number reads an integer within limits.
func number(f frame.Field, least, most int64) (n int, fault string) {
	v, ok := f.Int()
	switch {
	case !ok || f.Type == 'T':
		return 0, noInteger(f)
	case v < 0:
		return 0, fmt.Sprintf("{value_negative,%d}", v)
	case v < least:
		return 0, fmt.Sprintf("{value_zero,%d}", v)
	case v > most && most == 255:
		return 0, fmt.Sprintf("{max_value_exceeded,%d}", v)
	case v > most:
		return 0, fmt.Sprintf("{value_too_large,%d}", v)
	}
	return int(v), ""
}

func noInteger(f frame.Field) string {
	return fmt.Sprintf(`"expected integer, got %s"`, typeNames[f.Type])
}

func text(f frame.Field) string {
	if f.Type != 'S' {
		return unacceptable(f)
	}
	return ""
}

// oneOf wants one of some texts; another is the fault.
func oneOf(f frame.Field, fault string, values ...string) string {
	if f.Type != 'S' {
		return unacceptable(f)
	}
	if !slices.Contains(values, string(f.Value)) {
		return fault
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
