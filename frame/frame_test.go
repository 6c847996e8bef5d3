package frame

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// pool lends buffers of size octets and counts those that are out.
type pool struct{ size, out int }

func (p *pool) Get() []byte { p.out++; return make([]byte, p.size) }
func (p *pool) Put(b []byte) {
	if len(b) == p.size {
		p.out--
	}
}

// readAll cuts stream into frames, reading chunks of the sizes that next says.
func readAll(stream []byte, max int, next func() int) (frames []byte, left int, err error) {
	rd := NewReader(&pool{size: 64}, max)
	for len(stream) > 0 {
		n := copy(rd.Space(), stream[:min(next(), len(stream))])
		rd.Filled(n)
		stream = stream[n:]
		for {
			f, err := rd.Next()
			if err != nil {
				return frames, 0, err
			}
			if f == nil {
				break
			}
			frames = append(frames, f...)
		}
		rd.Release()
	}
	return frames, rd.Buffered(), nil
}

// FuzzReader: what comes out is a prefix of what went in, it never depends on
// how the stream was cut, and no frame is over the limit.
func FuzzReader(f *testing.F) {
	f.Add([]byte(Heartbeat), uint64(1), 100)
	f.Add([]byte{1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}, uint64(2), 4096)
	f.Add(bytes.Repeat(Build(nil, 1, BasicAck).LongLong(7).Bit(true).End(), 9), uint64(3), 20)
	f.Add([]byte{3, 0, 1, 0, 0, 0, 2, 'a', 'b', 0xCD}, uint64(4), 20)
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64, max int) {
		max &= 0xFFFF
		whole, left, err := readAll(stream, max, func() int { return len(stream) })
		if !bytes.HasPrefix(stream, whole) {
			t.Fatalf("frames are not a prefix of the stream")
		}
		if err == nil && len(whole)+left != len(stream) {
			t.Fatalf("%d octets in, %d out and %d held", len(stream), len(whole), left)
		}
		rnd := rand.New(rand.NewPCG(seed, seed))
		cut, cutLeft, cutErr := readAll(stream, max, func() int { return 1 + rnd.IntN(40) })
		if !bytes.Equal(whole, cut) || left != cutLeft || (err == nil) != (cutErr == nil) {
			t.Fatalf("chunking changed the result: %d/%d/%v, %d/%d/%v", len(whole), left, err, len(cut), cutLeft, cutErr)
		}
	})
}

func TestReaderRefuses(t *testing.T) {
	for name, stream := range map[string][]byte{
		"over the limit, from the head alone": {3, 0, 1, 0, 0, 0, 101},
		"4 GiB":                               {3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF},
		"wrong end octet":                     {8, 0, 0, 0, 0, 0, 0, 0xCD},
	} {
		_, _, err := readAll(stream, 100, func() int { return 1 })
		var ce *ConnError
		if !errors.As(err, &ce) || ce.Code != FrameError {
			t.Errorf("%s: got %v, want FRAME_ERROR", name, err)
		}
	}
}

func TestReaderHoldsNoBufferWhileIdle(t *testing.T) {
	p := &pool{size: 1 << 16}
	rd := NewReader(p, 4096)
	rd.Filled(copy(rd.Space(), Heartbeat))
	if f, err := rd.Next(); f == nil || err != nil {
		t.Fatalf("got %v, %v", f, err)
	}
	rd.Release()
	if p.out != 0 || rd.buf != nil {
		t.Fatalf("%d buffers out after a whole frame", p.out)
	}
	rd.Filled(copy(rd.Space(), Heartbeat[:3]))
	rd.Release()
	if p.out != 0 || cap(rd.buf) > 16 {
		t.Fatalf("%d buffers out, %d octets held for 3 octets of a frame", p.out, cap(rd.buf))
	}
	rd.Filled(copy(rd.Space(), Heartbeat[3:]))
	if f, err := rd.Next(); !bytes.Equal(f, Heartbeat) {
		t.Fatalf("got %v, %v after the rest came", f, err)
	}
}

func TestReaderTakesFramesLargerThanItsBuffer(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 100_000)
	stream := append([]byte{3, 0, 1, 0, 1, 0x86, 0xA0}, body...)
	stream = append(stream, endOctet)
	got, _, err := readAll(stream, 1<<20, func() int { return 999 })
	if err != nil || !bytes.Equal(got, stream) {
		t.Fatalf("%d octets, %v", len(got), err)
	}
}

func TestTextRoundTrip(t *testing.T) {
	lines := []string{
		`0 connection.start version-minor=9 server-properties={product="x" n=5 on=true} mechanisms="PLAIN AMQPLAIN"`,
		`0 heartbeat`,
		`1 exchange.declare exchange="shard.a" type="direct" durable=1 nowait=1`,
		`7 basic.consume queue="q" consumer-tag="c" exclusive=1 nowait=1 arguments={x-priority=-5 a=["x" "y"]}`,
		`2047 basic.deliver consumer-tag="c" delivery-tag=18446744073709551615 redelivered=1 exchange="e"`,
		`1 header body-size=5 content-type="text/plain" headers={} priority=0 message-id="" timestamp=12`,
		`1 body "hello\x00"`,
		`1 body ""`,
		`3 connection.close-ok`,
	}
	for _, line := range lines {
		f, err := ParseText(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got := f.String(); got != line {
			t.Errorf("%s\nread back as\n%s", line, got)
		}
	}
	for m, spec := range methodSpecs {
		f, err := ParseText("1 " + spec.name)
		if err != nil || f.Method() != m || f.String() != "1 "+spec.name {
			t.Errorf("%s: %v, %s", spec.name, err, f)
		}
	}
	for _, bad := range []string{"", "x basic.ack", "1 basic.nope", "1 basic.ack tag=5", `1 body "`, "1 header"} {
		if f, err := ParseText(bad); err == nil {
			t.Errorf("%q was read as %s", bad, f)
		}
	}
}

// FuzzString: no frame makes a trace panic, and what a trace of a method says is
// read back as the same octets.
func FuzzString(f *testing.F) {
	for _, line := range []string{`1 basic.publish exchange="e"`, `1 header body-size=1 headers={a=[1 2]}`} {
		fr, _ := ParseText(line)
		f.Add([]byte(fr))
	}
	f.Add([]byte{2, 0, 1, 0, 0, 0, 0, 0xCE})
	f.Fuzz(func(t *testing.T, b []byte) {
		rd := NewReader(&pool{size: 64}, 1<<16)
		for len(b) > 0 {
			n := copy(rd.Space(), b)
			rd.Filled(n)
			b = b[n:]
			for {
				fr, err := rd.Next()
				if err != nil || fr == nil {
					break
				}
				text := fr.String()
				if len(text) > 40*len(fr)+200 {
					t.Fatalf("%d octets made a trace of %d", len(fr), len(text))
				}
				h, _ := ParseHeader(fr)
				for flag := uint16(FlagDeliveryMode); flag >= FlagClusterID; flag >>= 1 {
					if fr.Type() == TypeHeader && flag&(FlagDeliveryMode|FlagPriority) == 0 && h.TableAt > 0 {
						h.Property(fr, flag)
					}
				}
			}
		}
	})
}

// FuzzTable: walking a table neither panics nor loops, and its entries are the
// octets it was made of.
func FuzzTable(f *testing.F) {
	f.Add([]byte(Table{}.AppendString("BCC", "x")))
	f.Add([]byte{1, 'a', 'A', 0xFF, 0xFF, 0xFF, 0xFF})
	f.Add([]byte{1, 'a', 'V', 1, 'b', 't', 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		rest, used := Table(b), 0
		for {
			key, v, next, ok := rest.Next()
			if !ok {
				break
			}
			used += len(rest) - len(next)
			if first, found, _ := Table(b).Find(string(key)); !found || first.Type == 0 {
				t.Fatalf("entry %q is not found", key)
			}
			v.Text()
			rest = next
		}
		if used+len(rest) != len(b) {
			t.Fatalf("%d of %d octets walked, %d left", used, len(b), len(rest))
		}
	})
}

func TestProperty(t *testing.T) {
	f, err := ParseText(`1 header body-size=0 content-type="t" headers={a="b"} delivery-mode=2 priority=1 correlation-id="corr" reply-to="r" message-id="m" timestamp=258`)
	if err != nil {
		t.Fatal(err)
	}
	h, ok := ParseHeader(f)
	if !ok {
		t.Fatal("header does not parse")
	}
	for flag, want := range map[uint16]string{
		FlagCorrelationID: "corr", FlagMessageID: "m", FlagTimestamp: "\x00\x00\x00\x00\x00\x00\x01\x02",
	} {
		if v, found, ok := h.Property(f, flag); string(v) != want || !found || !ok {
			t.Errorf("flag %x: %q %v %v, want %q", flag, v, found, ok, want)
		}
	}
	if _, found, ok := h.Property(f, FlagAppID); found || !ok {
		t.Errorf("app-id: found %v, ok %v", found, ok)
	}
}

func TestCloseTextFitsAShortString(t *testing.T) {
	b := AppendChannelClose(nil, 5, &ChannelError{Code: PreconditionFailed, Text: strings.Repeat("x", 400), Method: QueueBind})
	want := `5 channel.close reply-code=406 reply-text="PRECONDITION_FAILED - xxx`
	if got := Frame(b).String(); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, `..." class-id=50 method-id=20`) {
		t.Fatal(got)
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	stream := Build(nil, 1, BasicPublish).Short(0).ShortStr("shard.a").ShortStr("key").Bit(true).End()
	p := &fixed{make([]byte, 4096)}
	rd := NewReader(p, 1<<16)
	allocs := testing.AllocsPerRun(1000, func() {
		rd.Filled(copy(rd.Space(), stream))
		f, err := rd.Next()
		if f == nil || err != nil {
			t.Fatal(io.ErrUnexpectedEOF)
		}
		a := f.Args()
		a.Short()
		if string(a.ShortStr()) != "shard.a" || string(a.ShortStr()) != "key" || !a.Bit() || !a.OK() {
			t.Fatal("misread")
		}
		rd.Release()
	})
	if allocs != 0 {
		t.Fatalf("%v allocations per frame", allocs)
	}
}

type fixed struct{ b []byte }

func (f *fixed) Get() []byte { return f.b }
func (f *fixed) Put([]byte)  {}
