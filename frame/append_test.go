package frame

import (
	"bytes"
	"testing"
)

// TestAppendFields: what is read field by field, of tables and of arrays in them, is
// written the same.
func TestAppendFields(t *testing.T) {
	const text = `1 queue.declare arguments={a="text" b=5 c=true d=["x" 5 table:0161740162740101] e=table:016b53000000016e f=V: g=d:4009000000000000 h=x:00ff}`
	f, err := ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	a := f.Args()
	a.Short()
	a.ShortStr()
	a.Octet()
	want := a.Table()
	var got Table
	for rest := want; len(rest) > 0; {
		key, field, after, ok := rest.Next()
		if !ok {
			t.Fatalf("malformed at %x", []byte(rest))
		}
		if field.Type == 'A' {
			field.Value = copyItems(t, field.Value)
		}
		got, rest = got.Append(string(key), field), after
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", []byte(got), []byte(want))
	}
	if _, rest, ok := NextItem([]byte{'S', 0, 0}); ok || len(rest) == 0 {
		t.Error("half an item was taken")
	}
}

func copyItems(t *testing.T, array []byte) (copied []byte) {
	t.Helper()
	for len(array) > 0 {
		item, rest, ok := NextItem(array)
		if !ok {
			t.Fatalf("malformed at %x", array)
		}
		copied, array = AppendItem(copied, item), rest
	}
	return copied
}

// TestAppendContent: a body is cut so that no frame is too large, and none is empty.
func TestAppendContent(t *testing.T) {
	const max = 20
	for size, want := range map[int][]int{0: nil, 1: {1}, 12: {12}, 13: {12, 1}, 36: {12, 12, 12}} {
		b := AppendContent(nil, 7, []byte{0x10, 0, 2}, bytes.Repeat([]byte{'x'}, size), max)
		header := First(b)
		h, ok := ParseHeader(header)
		if !ok || header.Channel() != 7 || h.BodySize != uint64(size) || h.Flags != FlagDeliveryMode {
			t.Errorf("%d octets: header %s", size, header)
		}
		b = b[len(header):]
		for _, n := range want {
			f := First(b)
			if f.Type() != TypeBody || f.Channel() != 7 || len(f.Payload()) != n || len(f) > max {
				t.Errorf("%d octets: body %s, want %d octets", size, f, n)
			}
			b = b[len(f):]
		}
		if len(b) > 0 {
			t.Errorf("%d octets: %x is left", size, b)
		}
	}
}
