package frame

import (
	"encoding/binary"
	"strconv"
)

// Table is the content of a field table as it lies on the wire, without its
// length (section 4.2.5.5).
type Table []byte

// Field is one value of a table or array.
type Field struct {
	Type  byte
	Value []byte // the octets of the value; of 'S', 'x', 'F', 'A' without the length
}

// Next splits off the first entry. ok is false at the end and at a malformed
// entry; the two differ by len(t).
func (t Table) Next() (key []byte, f Field, rest Table, ok bool) {
	if len(t) == 0 || len(t) < 1+int(t[0]) {
		return nil, Field{}, t, false
	}
	key, after := t[1:1+int(t[0])], t[1+int(t[0]):]
	f, size := readField(after)
	if size == 0 {
		return nil, Field{}, t, false
	}
	return key, f, after[size:], true
}

// Find gives the first entry with key, which is the one that counts for
// RabbitMQ too. valid is false when the table is malformed before that.
func (t Table) Find(key string) (f Field, found, valid bool) {
	for len(t) > 0 {
		k, v, rest, ok := t.Next()
		if !ok {
			return Field{}, false, false
		}
		if string(k) == key {
			return v, true, true
		}
		t = rest
	}
	return Field{}, false, true
}

// fixedSizes are the sizes of the values that have no length of their own, as
// RabbitMQ reads them.
var fixedSizes = [256]uint8{
	't': 1, 'b': 1, 'B': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'l': 8, 'L': 8,
	'f': 4, 'd': 8, 'D': 5, 'T': 8,
}

// readField reads a type and its value; size is what both take, 0 if malformed.
func readField(b []byte) (f Field, size int) {
	if len(b) == 0 {
		return Field{}, 0
	}
	at, n := 1, int(fixedSizes[b[0]])
	switch b[0] {
	case 'S', 'x', 'F', 'A':
		if len(b) < 5 {
			return Field{}, 0
		}
		at, n = 5, int(binary.BigEndian.Uint32(b[1:]))
	case 'V':
	default:
		if n == 0 {
			return Field{}, 0
		}
	}
	if n > len(b)-at {
		return Field{}, 0
	}
	return Field{b[0], b[at : at+n : at+n]}, at + n
}

// AppendString appends an entry with a long string.
func (t Table) AppendString(key, value string) Table {
	t = append(append(t, byte(len(key))), key...)
	return append(binary.BigEndian.AppendUint32(append(t, 'S'), uint32(len(value))), value...)
}

// AppendTable appends an entry with a nested table.
func (t Table) AppendTable(key string, value Table) Table {
	t = append(append(t, byte(len(key))), key...)
	return append(binary.BigEndian.AppendUint32(append(t, 'F'), uint32(len(value))), value...)
}

// AppendFlag appends an entry with a boolean.
func (t Table) AppendFlag(key string, value bool) Table {
	t = append(append(t, byte(len(key))), key...)
	if value {
		return append(t, 't', 1)
	}
	return append(t, 't', 0)
}

// Append appends an entry with any field.
func (t Table) Append(key string, f Field) Table {
	return f.append(append(append(t, byte(len(key))), key...))
}

// AppendItem appends a field to the value of an array.
func AppendItem(array []byte, f Field) []byte { return f.append(array) }

// NextItem splits off the first field of an array's value. ok is false at the end and
// at a malformed field; the two differ by len(array).
func NextItem(array []byte) (f Field, rest []byte, ok bool) {
	f, size := readField(array)
	return f, array[size:], size > 0
}

func (f Field) append(dst []byte) []byte {
	dst = append(dst, f.Type)
	switch f.Type {
	case 'S', 'x', 'F', 'A':
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Value)))
	}
	return append(dst, f.Value...)
}

// Text is the field as text: strings as they are, numbers and booleans in
// digits and words. ok is false for types that have no plain text.
func (f Field) Text() (text string, ok bool) {
	switch f.Type {
	case 'S', 'x':
		return string(f.Value), true
	case 't':
		return strconv.FormatBool(f.Value[0] != 0), true
	}
	n, ok := f.Int()
	return strconv.FormatInt(n, 10), ok
}

// Int is the value of an integer or timestamp field; unsigned 64-bit values over
// the signed range wrap.
func (f Field) Int() (n int64, ok bool) {
	v := f.Value
	switch f.Type {
	case 'b':
		return int64(int8(v[0])), true
	case 'B':
		return int64(v[0]), true
	case 's':
		return int64(int16(binary.BigEndian.Uint16(v))), true
	case 'u':
		return int64(binary.BigEndian.Uint16(v)), true
	case 'I':
		return int64(int32(binary.BigEndian.Uint32(v))), true
	case 'i':
		return int64(binary.BigEndian.Uint32(v)), true
	case 'l', 'L', 'T':
		return int64(binary.BigEndian.Uint64(v)), true
	}
	return 0, false
}
