package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// text is a string that convert accepts.
func text[T any](dst *T, convert func(string) (T, error)) setFunc {
	return func(r *reader, v value) {
		s, ok := r.scalar(v, "a string")
		if !ok {
			return
		}
		t, err := convert(s)
		if err != nil {
			// Package shard begins its errors with the key, as the path does here.
			r.reject(v, "%s", strings.TrimPrefix(err.Error(), v.name+" "))
			return
		}
		if !v.isString() {
			r.reject(v, "must be a string: write it in quotes, %q", s)
			return
		}
		*dst = t
	}
}

// texts is a list of such strings. Unlike a list of sections it can't be left
// out halfway: `[]` is a decision, a forgotten value isn't.
func texts[T any](dst *[]T, convert func(string) (T, error)) setFunc {
	return func(r *reader, v value) {
		if _, null := v.node.(*ast.NullNode); null {
			r.reject(v, "must be a list; [] is the empty one")
			return
		}
		all := []T{}
		for _, one := range r.entries(v) {
			var t T
			text(&t, convert).set(r, one)
			all = append(all, t)
		}
		*dst = all
	}
}

// whole is a whole number from low to high.
func whole[T int | uint32](dst *T, low, high int64) setFunc {
	return func(r *reader, v value) {
		if n, ok := integer(v.node); ok && n >= low && n <= high {
			*dst = T(n)
			return
		}
		s, ok := r.scalar(v, "a whole number")
		if !ok {
			return
		}
		unquoted := ""
		if v.isQuoted() {
			unquoted = ", without quotes"
		}
		r.reject(v, "must be a whole number%s%s, not %s", bounds(low, high), unquoted, v.quote(s))
	}
}

// integer reads a plain decimal number only: 0x10, 010 and 1_000 are not the
// same to every reader of YAML.
func integer(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok || i.Token.Type != token.IntegerType {
		return 0, false
	}
	x, err := strconv.ParseInt(i.Token.Value, 10, 64)
	return x, err == nil
}

func bounds(low, high int64) string {
	if high == math.MaxInt64 {
		return fmt.Sprintf(" from %d up", low)
	}
	return fmt.Sprintf(" from %d to %d", low, high)
}

// duration is a Go duration above zero.
func duration(dst *time.Duration) setFunc {
	const what = "a duration above zero such as 500ms, 10s or 1m30s"
	return func(r *reader, v value) {
		s, ok := r.scalar(v, what)
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			r.reject(v, "must be %s, not %s", what, v.quote(s))
			return
		}
		*dst = d
	}
}

// seconds is a duration as AMQP has it for heartbeats.
func seconds(dst *time.Duration) setFunc {
	const most = 10 * time.Minute
	return func(r *reader, v value) {
		var d time.Duration
		duration(&d)(r, v)
		switch {
		case d == 0: // it is reported
		case d%time.Second != 0 || d > most:
			r.reject(v, "must be whole seconds, 1s to %s, not %s", most, d)
		default:
			*dst = d
		}
	}
}

// oneOf is a word that stands for a value.
func oneOf[T any](dst *T, choices map[string]T) setFunc {
	words := sorted(choices)
	what := "one of " + strings.Join(words, ", ")
	return func(r *reader, v value) {
		s, ok := r.scalar(v, what)
		if !ok {
			return
		}
		t, ok := choices[s]
		if !ok {
			r.reject(v, "must be %s, not %s", what, v.quote(s))
			return
		}
		*dst = t
	}
}
