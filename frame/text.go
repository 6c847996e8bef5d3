package frame

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// ParseText reads one frame in the form that Frame.String writes. It is for
// scenarios and scripted peers: fields that are not named are zero, a field that
// the method does not have is an error, and bits may be named alone ("nowait").
func ParseText(line string) (Frame, error) {
	w, err := words(line)
	if err != nil || len(w) < 2 {
		return nil, fmt.Errorf("frame text %q: want CHANNEL METHOD [FIELD=VALUE]… (%v)", line, err)
	}
	ch, err := strconv.ParseUint(w[0], 10, 16)
	if err != nil {
		return nil, fmt.Errorf("frame text %q: channel: %w", line, err)
	}
	head := []byte{TypeMethod, byte(ch >> 8), byte(ch), 0, 0, 0, 0}
	switch w[1] {
	case "heartbeat":
		head[0] = TypeHeartbeat
	case "body":
		head[0] = TypeBody
		text, err := strconv.Unquote(strings.Join(w[2:], " "))
		if err != nil {
			return nil, fmt.Errorf("frame text %q: body: %w", line, err)
		}
		head = append(head, text...)
	case "header":
		head[0] = TypeHeader
		if head, err = appendHeaderText(head, w[2:]); err != nil {
			return nil, fmt.Errorf("frame text %q: %w", line, err)
		}
	default:
		m, known := methodsByName[w[1]]
		if !known {
			return nil, fmt.Errorf("frame text %q: unknown method", line)
		}
		b, err := buildText(Builder{buf: binary.BigEndian.AppendUint32(head, uint32(m))}, methodSpecs[m].fields, w[2:])
		if err != nil {
			return nil, fmt.Errorf("frame text %q: %w", line, err)
		}
		head = b.buf
	}
	return finish(head, 0), nil
}

func appendHeaderText(dst []byte, w []string) ([]byte, error) {
	values, err := fieldValues(w)
	if err != nil {
		return nil, err
	}
	size, err := strconv.ParseUint(values["body-size"], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("body-size: %w", err)
	}
	delete(values, "body-size")
	var flags uint16
	var fields []fieldSpec
	for i, p := range propertyNames {
		if _, given := values[p.name]; given {
			flags |= 1 << (15 - i)
			fields = append(fields, p)
		}
	}
	dst = binary.BigEndian.AppendUint64(append(dst, 0, 60, 0, 0), size)
	b, err := build(Builder{buf: binary.BigEndian.AppendUint16(dst, flags)}, fields, values)
	return b.buf, err
}

func buildText(b Builder, fields []fieldSpec, w []string) (Builder, error) {
	values, err := fieldValues(w)
	if err != nil {
		return b, err
	}
	return build(b, fields, values)
}

func build(b Builder, fields []fieldSpec, values map[string]string) (Builder, error) {
	for _, f := range fields {
		v := values[f.name]
		delete(values, f.name)
		var err error
		if b, err = appendField(b, f.kind, v); err != nil {
			return b, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	for name := range values {
		return b, fmt.Errorf("no field %q", name)
	}
	return b, nil
}

func appendField(b Builder, kind byte, v string) (Builder, error) {
	switch kind {
	case 'S', 'X':
		if v == "" {
			v = `""`
		}
		text, err := strconv.Unquote(v)
		if kind == 'S' {
			return b.ShortStr(text), err
		}
		return b.LongStr(text), err
	case 'T':
		t, err := parseTable(v)
		return b.Table(t), err
	}
	if v == "" {
		v = "0"
	}
	n, err := strconv.ParseUint(v, 10, 64)
	switch kind {
	case 'o':
		b = b.Octet(byte(n))
	case 's':
		b = b.Short(uint16(n))
	case 'l':
		b = b.Long(uint32(n))
	case 'L':
		b = b.LongLong(n)
	case 'b':
		b = b.Bit(n != 0)
	}
	return b, err
}

// fieldValues splits NAME=VALUE words; a lone NAME is a bit that is set.
func fieldValues(w []string) (map[string]string, error) {
	values := map[string]string{}
	for _, word := range w {
		name, v, given := strings.Cut(word, "=")
		if !given {
			v = "1"
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("field %q twice", name)
		}
		values[name] = v
	}
	return values, nil
}

// words splits at spaces outside of quotes, braces and brackets.
func words(line string) ([]string, error) {
	var out []string
	depth, quoted, start := 0, false, -1
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if c == ' ' && !quoted && depth == 0 {
			if start >= 0 {
				out = append(out, line[start:i])
			}
			start = -1
		} else if start < 0 {
			start = i
		}
	}
	if quoted || depth != 0 {
		return nil, fmt.Errorf("unbalanced quotes or braces")
	}
	if start >= 0 {
		out = append(out, line[start:])
	}
	return out, nil
}

func parseTable(v string) (Table, error) {
	if v == "" {
		return nil, nil
	}
	if !strings.HasPrefix(v, "{") || !strings.HasSuffix(v, "}") {
		return nil, fmt.Errorf("table %q: want {KEY=VALUE …}", v)
	}
	entries, err := words(v[1 : len(v)-1])
	if err != nil {
		return nil, err
	}
	t := Table{}
	for _, e := range entries {
		key, value, _ := strings.Cut(e, "=")
		t = append(append(t, byte(len(key))), key...)
		if t, err = appendValue(t, value); err != nil {
			return nil, fmt.Errorf("table entry %q: %w", e, err)
		}
	}
	return t, nil
}

func appendValue(t []byte, v string) ([]byte, error) {
	long := func(kind byte, b []byte) []byte {
		return append(binary.BigEndian.AppendUint32(append(t, kind), uint32(len(b))), b...)
	}
	switch {
	case strings.HasPrefix(v, `"`):
		text, err := strconv.Unquote(v)
		return long('S', []byte(text)), err
	case v == "true":
		return append(t, 't', 1), nil
	case v == "false":
		return append(t, 't', 0), nil
	case strings.HasPrefix(v, "["):
		items, err := words(strings.TrimSuffix(v[1:], "]"))
		if err != nil {
			return nil, err
		}
		var array []byte
		for _, item := range items {
			if array, err = appendValue(array, item); err != nil {
				return nil, err
			}
		}
		return long('A', array), nil
	case len(v) > 1 && v[1] == ':':
		raw, err := hex.DecodeString(v[2:])
		if v[0] == 'x' {
			return long('x', raw), err
		}
		return append(append(t, v[0]), raw...), err
	case strings.HasPrefix(v, "table:"):
		raw, err := hex.DecodeString(v[len("table:"):])
		return long('F', raw), err
	}
	n, err := strconv.ParseInt(v, 10, 32)
	return binary.BigEndian.AppendUint32(append(t, 'I'), uint32(n)), err
}
