package frame

import (
	"bytes"
	"testing"
)

// FuzzWhole: the short cuts through a message see what the slow ways see.
func FuzzWhole(f *testing.F) {
	for _, lines := range [][]string{
		{`1 basic.publish exchange="shard.a" routing-key="k" mandatory`, `1 header body-size=3 headers={BCC=["q"]}`, `1 body "abc"`},
		{`7 basic.deliver consumer-tag="c" delivery-tag=9 exchange="e" routing-key="k"`, `7 header body-size=0`},
		{`1 basic.publish`, `2 header body-size=3`, `1 body "abc"`},
		{`1 basic.publish`, `1 header body-size=18446744073709551615`, `1 body "abc"`},
	} {
		var b []byte
		for _, line := range lines {
			fr, err := ParseText(line)
			if err != nil {
				f.Fatal(err)
			}
			b = append(b, fr...)
		}
		f.Add(b)
	}
	f.Add([]byte{1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xCE})
	f.Fuzz(func(t *testing.T, b []byte) {
		rd := NewReader(&pool{size: len(b) + 64}, len(b))
		rd.Filled(copy(rd.Space(), b))
		var frames [3]Frame
		for i := range frames {
			frames[i], _ = rd.Next()
		}
		m, h, body := slowWhole(frames)
		if gm, gh, gb := Whole(b); gm != m || gh != h || gb != body {
			t.Fatalf("a whole message of %d, %d, %d octets was seen as %d, %d, %d", m, h, body, gm, gh, gb)
		}
		if frames[0] != nil {
			checkArgs(t, frames[0])
		}
	})
}

// slowWhole is Whole by way of the Reader.
func slowWhole(frames [3]Frame) (method, header, body int) {
	m, h, b := frames[0], frames[1], frames[2]
	if m == nil || h == nil || m.Type() != TypeMethod || h.Type() != TypeHeader || h.Channel() != m.Channel() {
		return 0, 0, 0
	}
	size, ok := BodySize(h)
	switch {
	case !ok || len(h.Payload()) < headerFixed+2:
		return 0, 0, 0
	case size == 0:
		return len(m), len(h), 0
	case b == nil || b.Type() != TypeBody || b.Channel() != m.Channel() || uint64(len(b.Payload())) != size:
		return 0, 0, 0
	}
	return len(m), len(h), len(b)
}

// checkArgs holds PublishArgs and DeliverExchange against Args.
func checkArgs(t *testing.T, f Frame) {
	a := f.Args()
	a.Short()
	exchange, key := a.ShortStr(), a.ShortStr()
	a.Octet()
	is := f.Type() == TypeMethod && f.Method() == BasicPublish && a.OK() && len(a.b) == 0
	e, k, ok := PublishArgs(f)
	if f.Type() == TypeMethod && (ok != is || ok && (!bytes.Equal(e, exchange) || !bytes.Equal(k, key))) {
		t.Fatalf("%v: PublishArgs gives %q, %q, %v", f, e, k, ok)
	}
	a = f.Args()
	a.ShortStr()
	a.LongLong()
	a.Octet()
	exchange = a.ShortStr()
	is = f.Type() == TypeMethod && f.Method() == BasicDeliver && a.OK()
	if e, ok := DeliverExchange(f); f.Type() == TypeMethod && (ok != is || ok && !bytes.Equal(e, exchange)) {
		t.Fatalf("%v: DeliverExchange gives %q, %v", f, e, ok)
	}
}

// FuzzHeader: a header's table and properties lie where a reader that takes one
// property after the other finds them.
func FuzzHeader(f *testing.F) {
	for _, line := range []string{`1 header body-size=3 content-type="t" headers={a="x" n=5} delivery-mode=2 priority=1 correlation-id="c" message-id="m" timestamp=12 app-id="a"`,
		`1 header body-size=0`, `1 header body-size=0 headers={}`, `1 header body-size=0 content-encoding="e" type="t" user-id="u" cluster-id="c"`} {
		fr, err := ParseText(line)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(fr.Payload()))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		fr := Frame(finish(append([]byte{TypeHeader, 0, 1, 0, 0, 0, 0}, payload...), 0))
		h, ok := ParseHeader(fr)
		if len(payload) < headerFixed+2 {
			if ok {
				t.Fatal("a header that is too short was read")
			}
			return
		}
		a := Args{b: fr.Payload()[headerFixed+2:]}
		for i, p := range propertyNames {
			flag := uint16(1) << (15 - i)
			if h.Flags&flag == 0 {
				continue
			}
			value := propertyValue(&a, p.kind)
			switch {
			case flag == FlagHeaders && (ok != a.OK() || ok && !bytes.Equal(h.Table, value)):
				t.Fatalf("table %x, %v; want %x, %v", h.Table, ok, value, a.OK())
			case flag < FlagHeaders && flag&(FlagDeliveryMode|FlagPriority) == 0 && ok:
				got, found, good := h.Property(fr, flag)
				if !found || good != a.OK() || good && !bytes.Equal(got, value) {
					t.Fatalf("%s: %q, %v, %v; want %q, %v", p.name, got, found, good, value, a.OK())
				}
			}
		}
	})
}

// propertyValue takes the octets of one property.
func propertyValue(a *Args, kind byte) []byte {
	switch kind {
	case 'S':
		return a.ShortStr()
	case 'T':
		return a.Table()
	case 'L':
		return a.take(8)
	}
	return a.take(1)
}

// FuzzParseText: no text makes the parser panic, and what it reads is one whole frame
// that says the same again.
func FuzzParseText(f *testing.F) {
	for _, line := range []string{`1 basic.publish exchange="e" mandatory`, `1 header body-size=3 headers={a=[1 "x"] b=true c=x:00ff t=table:0161740100}`, `1 body "a\x00"`, `0 heartbeat`} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		fr, err := ParseText(line)
		if err != nil {
			return
		}
		rd := NewReader(&pool{size: len(fr) + 64}, len(fr))
		rd.Filled(copy(rd.Space(), fr))
		if got, err := rd.Next(); err != nil || !bytes.Equal(got, fr) {
			t.Fatalf("%q is no whole frame: %x, %v", line, []byte(fr), err)
		}
		_ = fr.String()
	})
}

// TestDeepTables: a table is walked and shown in the same few steps however deep it is.
func TestDeepTables(t *testing.T) {
	const depth = 1_000_000
	for _, c := range []struct {
		name, level string
		first       string // before the outermost value
	}{{"tables", "\x01aF", ""}, {"arrays", "A", "\x01a"}} {
		size := len(c.level) + 4
		b := make([]byte, depth*size)
		for i := range depth {
			at, left := i*size, len(b)-(i+1)*size
			copy(b[at:], c.level)
			copy(b[at+len(c.level):], []byte{byte(left >> 24), byte(left >> 16), byte(left >> 8), byte(left)})
		}
		table := Table(c.first + string(b))
		if f, found, ok := table.Find("a"); !found || !ok || len(f.Value) != len(b)-size {
			t.Errorf("%s: the outermost holds %d octets of %d", c.name, len(f.Value), len(b))
		}
		if text := table.String(); len(text) < len(b) || len(text) > 3*len(b) {
			t.Errorf("%s: %d octets are shown in %d", c.name, len(b), len(text))
		}
	}
}
