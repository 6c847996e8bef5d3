package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"amqproxy/frame"
)

var spliceItem = []byte("S\x00\x00\x00\x0eamqproxy:shard")

// headerFrame makes a header frame of properties as they lie on the wire.
func headerFrame(bodySize uint64, flags uint16, properties []byte) frame.Frame {
	f := binary.BigEndian.AppendUint32([]byte{frame.TypeHeader, 0, 1}, uint32(14+len(properties)))
	f = binary.BigEndian.AppendUint64(append(f, 0, 60, 0, 0), bodySize)
	f = binary.BigEndian.AppendUint16(f, flags)
	return append(append(f, properties...), 0xCE)
}

// bccOf finds the first BCC entry and tells where its value's items are; entry is
// where the entry begins. For the broker too the first one alone counts.
func bccOf(t frame.Table) (entry, from, to int, found bool) {
	for rest := t; len(rest) > 0; {
		key, v, after, ok := rest.Next()
		if !ok {
			return 0, 0, 0, false
		}
		if string(key) == "BCC" {
			to = len(t) - len(after)
			return len(t) - len(rest), to - len(v.Value), to, true
		}
		rest = after
	}
	return 0, 0, 0, false
}

// unspliced takes the item out of a spliced frame's BCC array again. hadBCC and
// hadTable say what there was before, which the frame alone can't tell.
func unspliced(f frame.Frame, item []byte, hadBCC, hadTable bool) (frame.Frame, error) {
	h, ok := frame.ParseHeader(f)
	entry, from, to, found := bccOf(h.Table)
	if !ok || !found || !bytes.HasSuffix(h.Table[from:to], item) {
		return nil, fmt.Errorf("the item is not at the end of the first BCC entry: %v", f)
	}
	var table []byte
	if hadBCC {
		table = append(table, h.Table[:to-len(item)]...)
		binary.BigEndian.PutUint32(table[from-4:], uint32(to-from-len(item)))
	} else {
		table = append(table, h.Table[:entry]...)
	}
	table = append(table, h.Table[to:]...)
	flags := h.Flags
	properties := bytes.Clone(f[21:h.TableAt]) // those before the headers
	if hadTable {
		properties = append(binary.BigEndian.AppendUint32(properties, uint32(len(table))), table...)
	} else {
		flags &^= frame.FlagHeaders
	}
	properties = append(properties, f[h.TableAt+4+len(h.Table):len(f)-1]...)
	return headerFrame(h.BodySize, flags, properties), nil
}

// spliceable tells whether the broker would route a message by a BCC header that
// it has or gets: the first CC and BCC are arrays, and the table can be read.
func spliceable(t frame.Table) bool {
	seen := map[string]bool{}
	for len(t) > 0 {
		key, v, rest, ok := t.Next()
		k := string(key)
		if !ok || (k == "BCC" || k == "CC") && !seen[k] && v.Type != 'A' {
			return false
		}
		seen[k] = true
		t = rest
	}
	return true
}

// splice finds the seam and splices, if there is one.
func splice(dst []byte, f frame.Frame, h frame.Header, item []byte) ([]byte, bool) {
	s, ok := findSeam(f, h, false)
	if !ok {
		return dst, false
	}
	return s.splice(dst, f, item), true
}

func seamOf(f frame.Frame, h frame.Header) seam {
	s, _ := findSeam(f, h, false)
	return s
}

// checkSplice splices f and takes the item out again. It tells whether f was one
// to be spliced.
func checkSplice(t *testing.T, f frame.Frame) bool {
	h, ok := frame.ParseHeader(f)
	if !ok {
		return false
	}
	original, before := bytes.Clone(f), []byte("before")
	dst, ok := splice(append(make([]byte, 0, 4096), before...), f, h, spliceItem)
	if !bytes.Equal(f, original) {
		t.Fatalf("splice wrote into its input:\n%x\n%x", original, f)
	}
	if ok != spliceable(h.Table) {
		t.Fatalf("spliced: %v, want %v: %v", ok, !ok, f)
	}
	if s, ok := findSeam(f, h, true); ok {
		if p := s.splice(nil, f, spliceItem); len(p) != len(f)+s.growth(spliceItem) || p[len(p)-1] != 0xCE {
			t.Fatalf("made persistent: %x became %x", f, p)
		}
	}
	if !ok {
		if !bytes.Equal(dst, before) {
			t.Fatalf("not spliced, and dst is %q", dst)
		}
		return false
	}
	got := frame.Frame(dst[len(before):])
	if !bytes.HasPrefix(dst, before) || len(got) != len(f)+seamOf(f, h).growth(spliceItem) {
		t.Fatalf("%d octets behind %q became %q", len(f), before, dst)
	}
	_, _, _, hadBCC := bccOf(h.Table)
	back, err := unspliced(got, spliceItem, hadBCC, h.Table != nil)
	if err != nil {
		t.Fatal(err)
	}
	// The weight is in neither, and the size field of got is checked by itself.
	if copy(back[9:11], f[9:11]); !bytes.Equal(back[:9], f[:9]) || !bytes.Equal(back[11:], f[11:]) {
		t.Fatalf("spliced and back:\n got %x\nwant %x", back, f)
	}
	if size := binary.BigEndian.Uint32(got[3:]); int(size) != len(got)-frame.Overhead || got[len(got)-1] != 0xCE {
		t.Fatalf("size %d in a frame of %d octets that ends in %x", size, len(got), got[len(got)-1])
	}
	return true
}

// FuzzSplice: the publisher's properties can be had back from what the broker
// gets, and a frame that is not spliced leaves no trace.
func FuzzSplice(f *testing.F) {
	add := func(text string) {
		h, err := frame.ParseText("1 header " + text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(binary.BigEndian.Uint64(h[11:]), binary.BigEndian.Uint16(h[19:]), []byte(h[21:len(h)-1]))
	}
	add(`body-size=5`)
	add(`body-size=0 content-type="t" headers={} delivery-mode=2`)
	add(`body-size=0 headers={a="x" BCC=["one" "two"] CC=["three"]} app-id="a"`)
	add(`body-size=0 headers={BCC=[] BCC="second"}`)
	add(`body-size=0 headers={CC="no array"}`)
	add(`body-size=0 content-encoding="e" headers={a=table:0161740100 BCC=table:}`)
	f.Add(uint64(1), uint16(frame.FlagHeaders|1), []byte("\x00\x00\x00\x06\x03BCCA\x00\x00\x00\x09"))
	f.Fuzz(func(t *testing.T, bodySize uint64, flags uint16, properties []byte) {
		checkSplice(t, headerFrame(bodySize, flags, properties[:min(len(properties), 4000)]))
	})
}

// dummies are one value for each property, in the order of the flags from the
// highest; the headers are given by themselves.
var dummies = [14]string{
	"\x0atext/plain", "\x04gzip", "", "\x02", "\x09", "\x01c", "\x01r", "\x0560000",
	"\x02m1", "\x00\x00\x00\x00\x65\x53\xf1\x00", "\x01t", "\x01u", "\x01a", "\x00",
}

// TestSpliceWithEveryCombinationOfProperties: the headers lie where the flags say
// and nowhere else.
func TestSpliceWithEveryCombinationOfProperties(t *testing.T) {
	tables := []string{"", "\x01aS\x00\x00\x00\x01x", "\x03BCCA\x00\x00\x00\x06S\x00\x00\x00\x01q\x03BCCV"}
	spliced := 0
	for combination := range 1 << 14 {
		flags := uint16(combination << 2)
		for _, table := range tables {
			var properties []byte
			for i, value := range dummies {
				switch flag := uint16(1) << (15 - i); {
				case flags&flag == 0:
				case flag == frame.FlagHeaders:
					properties = binary.BigEndian.AppendUint32(properties, uint32(len(table)))
					properties = append(properties, table...)
				default:
					properties = append(properties, value...)
				}
			}
			if checkSplice(t, headerFrame(7, flags, properties)) {
				spliced++
			}
		}
	}
	if want := len(tables) << 14; spliced != want {
		t.Errorf("%d of %d were spliced", spliced, want)
	}
}

// TestSpliceShapes: what the broker gets, octet by octet.
func TestSpliceShapes(t *testing.T) {
	const item = `"amqproxy:shard"`
	for _, c := range []struct{ name, header, want string }{
		{"no headers", `type="t"`, `headers={BCC=[` + item + `]} type="t"`},
		{"empty headers", `headers={} type="t"`, `headers={BCC=[` + item + `]} type="t"`},
		{"headers", `headers={a="x"}`, `headers={BCC=[` + item + `] a="x"}`},
		{"BCC of the client's", `headers={a="x" BCC=["q"] b="y"}`, `headers={a="x" BCC=["q" ` + item + `] b="y"}`},
		{"empty BCC", `headers={BCC=[] b="y"}`, `headers={BCC=[` + item + `] b="y"}`},
		{"two BCC", `headers={BCC=["q"] BCC=["r"]}`, `headers={BCC=["q" ` + item + `] BCC=["r"]}`},
		{"CC", `headers={CC=["q"]}`, `headers={BCC=[` + item + `] CC=["q"]}`},
		{"BCC in a table of the client's", `headers={t=table:03424343560000}`, `headers={BCC=[` + item + `] t=table:03424343560000}`},
		{"a key that is longer", `headers={BCCX="q"}`, `headers={BCC=[` + item + `] BCCX="q"}`},
		{"BCC that is no array", `headers={BCC="q"}`, ""},
		{"CC that is no array", `headers={CC=5 BCC=["q"]}`, ""},
	} {
		f, err := frame.ParseText("1 header body-size=9 " + c.header)
		if err != nil {
			t.Fatal(err)
		}
		h, _ := frame.ParseHeader(f)
		got, ok := splice(nil, f, h, spliceItem)
		if want := "1 header body-size=9 " + c.want; ok != (c.want != "") || ok && frame.Frame(got).String() != want {
			t.Errorf("%s: %v\n got %v\nwant %s", c.name, ok, frame.Frame(got), want)
		}
	}
}

// TestPersistent: the delivery mode becomes persistent, whether a message has one or
// not, and nothing else changes.
func TestPersistent(t *testing.T) {
	for text, want := range map[string]string{
		`header body-size=3`:                                                            `header body-size=3 headers={BCC=["amqproxy:shard"]} delivery-mode=2`,
		`header body-size=3 delivery-mode=1 priority=4`:                                 `header body-size=3 headers={BCC=["amqproxy:shard"]} delivery-mode=2 priority=4`,
		`header body-size=3 content-type="t" delivery-mode=2 app-id="a"`:                `header body-size=3 content-type="t" headers={BCC=["amqproxy:shard"]} delivery-mode=2 app-id="a"`,
		`header body-size=3 headers={a=1} correlation-id="c"`:                           `header body-size=3 headers={BCC=["amqproxy:shard"] a=1} delivery-mode=2 correlation-id="c"`,
		`header body-size=3 headers={BCC=["q"] a=1} delivery-mode=1 correlation-id="c"`: `header body-size=3 headers={BCC=["q" "amqproxy:shard"] a=1} delivery-mode=2 correlation-id="c"`,
	} {
		f, err := frame.ParseText("1 " + text)
		if err != nil {
			t.Fatal(err)
		}
		h, _ := frame.ParseHeader(f)
		s, ok := findSeam(f, h, true)
		got := frame.Frame(s.splice(nil, f, spliceItem))
		if !ok || got.String() != "1 "+want || len(got) != len(f)+s.growth(spliceItem) {
			t.Errorf("%s became %s in %d octets of %d, want %s", text, got, len(got), len(f), want)
		}
	}
}

// TestPersistentWithoutMode: a header that announces a delivery mode and has none is
// the broker's to refuse.
func TestPersistentWithoutMode(t *testing.T) {
	f := headerFrame(0, frame.FlagDeliveryMode, nil)
	h, _ := frame.ParseHeader(f)
	if _, ok := findSeam(f, h, true); ok {
		t.Error("it would be spliced")
	}
}
