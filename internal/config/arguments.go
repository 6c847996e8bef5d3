package config

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// queueArguments are what the shards get declared with. A key that the table
// does not know is passed on: brokers learn new ones.
func queueArguments(dst *map[string]any) setFunc {
	return func(r *reader, v value) {
		known := knownArguments()
		args, in := map[string]any{}, seen{}
		pairs, _ := r.pairs(v)
		for _, v := range pairs {
			in[v.name] = v
			if len(v.name) < 3 || !strings.HasPrefix(v.name, "x-") {
				r.failKey(v, "the queue argument %q does not begin with x-", v.name)
				continue
			}
			x, ok := r.argument(v)
			if !ok {
				continue
			}
			args[v.name] = x
			if check := known[v.name]; check != nil {
				if err := check(x); err != nil {
					r.reject(v, "%v", err)
				}
			}
		}
		together(r, args, in)
		*dst = args
	}
}

// argument gives the value as shard wants it: a string, a bool or an int64.
func (r *reader) argument(v value) (any, bool) {
	if n, ok := integer(v.node); ok {
		return n, true
	}
	if b, ok := v.node.(*ast.BoolNode); ok {
		return b.Value, true
	}
	const what = "a string, a whole number, true or false"
	s, ok := r.scalar(v, what)
	if ok && !v.isString() {
		r.reject(v, "must be %s, not %s", what, s)
		return nil, false
	}
	return s, ok
}

// together reports arguments that the broker, or reason, refuses as a set.
func together(r *reader, args map[string]any, in seen) {
	exchange, routed := args["x-dead-letter-exchange"]
	_, keyed := args["x-dead-letter-routing-key"]
	if exchange == "" && !keyed {
		r.reject(in["x-dead-letter-exchange"], "the default exchange without x-dead-letter-routing-key: it loops or loses messages")
	}
	if keyed && !routed {
		r.reject(in["x-dead-letter-routing-key"], "needs x-dead-letter-exchange beside it")
	}
	if priority, ok := in["x-max-priority"]; ok && args["x-queue-type"] == "quorum" {
		r.reject(priority, "quorum queues have no x-max-priority")
	}
}

// knownArguments are the rules of the arguments that RabbitMQ documents.
func knownArguments() map[string]func(any) error {
	count, flag, word := number(0, math.MaxInt64), isType[bool]("true or false"), isType[string]("a string")
	return map[string]func(any) error{
		"x-queue-type":                words("classic", "quorum"),
		"x-queue-leader-locator":      forbidden,
		"x-queue-master-locator":      forbidden,
		"x-expires":                   number(1, math.MaxInt64),
		"x-message-ttl":               count,
		"x-max-length":                count,
		"x-max-length-bytes":          count,
		"x-max-in-memory-length":      count,
		"x-max-in-memory-bytes":       count,
		"x-max-priority":              number(1, 255),
		"x-delivery-limit":            number(-1, math.MaxInt64), // -1: no limit, since RabbitMQ 4
		"x-consumer-timeout":          count,
		"x-quorum-initial-group-size": number(1, math.MaxInt64),
		"x-quorum-target-group-size":  number(1, math.MaxInt64),
		"x-queue-version":             number(1, 2),
		"x-queue-mode":                words("default", "lazy"),
		"x-overflow":                  words("drop-head", "reject-publish", "reject-publish-dlx"),
		"x-dead-letter-strategy":      words("at-most-once", "at-least-once"),
		"x-dead-letter-exchange":      word,
		"x-dead-letter-routing-key":   word,
		"x-single-active-consumer":    flag,
	}
}

func forbidden(any) error {
	return errors.New("the proxy sets this one: a shard belongs on the node that it is named after")
}

func number(low, high int64) func(any) error {
	return func(x any) error {
		if n, ok := x.(int64); ok && n >= low && n <= high {
			return nil
		}
		unquoted := ""
		if _, ok := x.(string); ok {
			unquoted = ", without quotes"
		}
		return fmt.Errorf("must be a whole number%s%s, not %#v", bounds(low, high), unquoted, x)
	}
}

func words(choices ...string) func(any) error {
	return func(x any) error {
		for _, c := range choices {
			if x == c {
				return nil
			}
		}
		return fmt.Errorf("must be one of %s, not %#v", strings.Join(choices, ", "), x)
	}
}

func isType[T any](what string) func(any) error {
	return func(x any) error {
		if _, ok := x.(T); !ok {
			return fmt.Errorf("must be %s, not %#v", what, x)
		}
		return nil
	}
}
