package frame

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// maxTracedBody is how much of a body a trace shows.
const maxTracedBody = 48

// String is the frame as one line of text: "1 basic.ack delivery-tag=5
// multiple=1". Fields that are empty or zero are left out. ParseText reads it
// back, but for long bodies, which it shortens.
func (f Frame) String() string {
	if len(f) < Overhead {
		return fmt.Sprintf("broken frame %x", []byte(f))
	}
	head := strconv.Itoa(int(f.Channel())) + " "
	switch f.Type() {
	case TypeMethod:
		return head + f.methodText()
	case TypeHeader:
		return head + f.headerText()
	case TypeBody:
		p := f.Payload()
		if len(p) > maxTracedBody {
			return head + fmt.Sprintf("body %q… %d bytes", p[:maxTracedBody], len(p))
		}
		return head + fmt.Sprintf("body %q", p)
	case TypeHeartbeat:
		return head + "heartbeat"
	}
	return head + fmt.Sprintf("frame of type %d, %d bytes", f.Type(), len(f.Payload()))
}

func (f Frame) methodText() string {
	spec, known := methodSpecs[f.Method()]
	if !known {
		return fmt.Sprintf("method %d.%d", f.Method().Class(), f.Method().ID())
	}
	var b strings.Builder
	b.WriteString(spec.name)
	a := f.Args()
	for _, field := range spec.fields {
		if v := fieldText(&a, field.kind); v != "" {
			b.WriteString(" " + field.name + "=" + v)
		}
	}
	if !a.OK() {
		b.WriteString(" (malformed)")
	}
	return b.String()
}

// fieldText reads one argument; "" if it is zero or empty.
func fieldText(a *Args, kind byte) string {
	var n uint64
	switch kind {
	case 'o':
		n = uint64(a.Octet())
	case 's':
		n = uint64(a.Short())
	case 'l':
		n = uint64(a.Long())
	case 'L':
		n = a.LongLong()
	case 'b':
		if a.Bit() {
			n = 1
		}
	case 'S':
		return quoteUnlessEmpty(a.ShortStr())
	case 'X':
		return quoteUnlessEmpty(a.LongStr())
	case 'T':
		if t := a.Table(); len(t) > 0 {
			return t.String()
		}
	}
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func quoteUnlessEmpty(s []byte) string {
	if len(s) == 0 {
		return ""
	}
	return strconv.Quote(string(s))
}

// propertyNames in the order of the flags, from the highest bit.
var propertyNames = []fieldSpec{
	{"content-type", 'S'}, {"content-encoding", 'S'}, {"headers", 'T'}, {"delivery-mode", 'o'},
	{"priority", 'o'}, {"correlation-id", 'S'}, {"reply-to", 'S'}, {"expiration", 'S'},
	{"message-id", 'S'}, {"timestamp", 'L'}, {"type", 'S'}, {"user-id", 'S'}, {"app-id", 'S'}, {"cluster-id", 'S'},
}

func (f Frame) headerText() string {
	h, ok := ParseHeader(f)
	if !ok {
		return fmt.Sprintf("header (malformed) %x", f.Payload())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "header body-size=%d", h.BodySize)
	a := Args{b: f.Payload()[headerFixed+2:]}
	for i, p := range propertyNames {
		if h.Flags&(1<<(15-i)) == 0 {
			continue
		}
		v := fieldText(&a, p.kind)
		if v == "" { // present and empty is not the same as absent
			v = map[byte]string{'S': `""`, 'T': "{}"}[p.kind]
			if v == "" {
				v = "0"
			}
		}
		b.WriteString(" " + p.name + "=" + v)
	}
	return b.String()
}

// String shows the entries in their order: {a="text" b=5 c={…} d=["x"]}.
func (t Table) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for first := true; len(t) > 0; first = false {
		key, f, rest, ok := t.Next()
		if !ok {
			b.WriteString(" (malformed)")
			break
		}
		if !first {
			b.WriteByte(' ')
		}
		b.WriteString(string(key) + "=" + f.String())
		t = rest
	}
	b.WriteByte('}')
	return b.String()
}

// String shows nested tables one level deep, so that no input makes it recurse.
func (f Field) String() string {
	switch f.Type {
	case 'S':
		return strconv.Quote(string(f.Value))
	case 't':
		return strconv.FormatBool(f.Value[0] != 0)
	case 'F':
		return fmt.Sprintf("table:%x", f.Value)
	case 'A':
		return f.arrayText()
	case 'I':
		return strconv.Itoa(int(int32(binary.BigEndian.Uint32(f.Value))))
	}
	return fmt.Sprintf("%c:%x", f.Type, f.Value)
}

func (f Field) arrayText() string {
	items := []string{}
	for rest := f.Value; len(rest) > 0; {
		item, size := readField(rest)
		if size == 0 {
			items = append(items, "(malformed)")
			break
		}
		if item.Type == 'A' {
			items = append(items, fmt.Sprintf("array:%x", item.Value))
		} else {
			items = append(items, item.String())
		}
		rest = rest[size:]
	}
	return "[" + strings.Join(items, " ") + "]"
}
