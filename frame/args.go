package frame

import "encoding/binary"

// Args reads method arguments one after the other. A read beyond the end gives a
// zero value and marks the whole as bad: check OK once, after the last read.
type Args struct {
	b    []byte
	bits byte // the octet that Bit reads from
	n    int  // bits left in it
	bad  bool
}

// OK tells whether everything read so far was there.
func (a *Args) OK() bool { return !a.bad }

func (a *Args) take(n int) []byte {
	a.n = 0
	if n > len(a.b) {
		a.bad, a.b = true, nil
		return nil
	}
	v := a.b[:n:n]
	a.b = a.b[n:]
	return v
}

// Octet reads 8 bits.
func (a *Args) Octet() byte {
	if v := a.take(1); v != nil {
		return v[0]
	}
	return 0
}

// Short reads 16 bits.
func (a *Args) Short() uint16 {
	if v := a.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

// Long reads 32 bits.
func (a *Args) Long() uint32 {
	if v := a.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// LongLong reads 64 bits.
func (a *Args) LongLong() uint64 {
	if v := a.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// ShortStr reads a string of up to 255 octets.
func (a *Args) ShortStr() []byte { return a.take(int(a.Octet())) }

// LongStr reads a string with a 32-bit length.
func (a *Args) LongStr() []byte { return a.take(int(a.Long())) }

// Table reads a field table, without its length.
func (a *Args) Table() Table { return Table(a.LongStr()) }

// Bit reads one of a run of bits, which share octets.
func (a *Args) Bit() bool {
	if a.n == 0 {
		a.bits = a.Octet()
		a.n = 8
	}
	v := a.bits&1 != 0
	a.bits >>= 1
	a.n--
	return v
}

// Builder appends one method frame, field by field.
type Builder struct {
	buf   []byte
	start int
	n     int // bits in the last octet; 0: the next bit starts one
}

// Build begins a method frame at the end of dst.
func Build(dst []byte, ch uint16, m Method) Builder {
	start := len(dst)
	dst = append(dst, TypeMethod, byte(ch>>8), byte(ch), 0, 0, 0, 0)
	return Builder{buf: binary.BigEndian.AppendUint32(dst, uint32(m)), start: start}
}

// End finishes the frame and returns dst with it.
func (b Builder) End() []byte {
	return finish(b.buf, b.start)
}

// finish writes the size of the frame that begins at start, and its end octet.
func finish(buf []byte, start int) []byte {
	binary.BigEndian.PutUint32(buf[start+3:], uint32(len(buf)-start-headSize))
	return append(buf, endOctet)
}

func (b Builder) Octet(v byte) Builder {
	b.buf, b.n = append(b.buf, v), 0
	return b
}

func (b Builder) Short(v uint16) Builder {
	b.buf, b.n = binary.BigEndian.AppendUint16(b.buf, v), 0
	return b
}

func (b Builder) Long(v uint32) Builder {
	b.buf, b.n = binary.BigEndian.AppendUint32(b.buf, v), 0
	return b
}

func (b Builder) LongLong(v uint64) Builder {
	b.buf, b.n = binary.BigEndian.AppendUint64(b.buf, v), 0
	return b
}

// ShortStr takes up to 255 octets; a longer string is a fault of the caller,
// since cutting a name would name something else.
func (b Builder) ShortStr(v string) Builder {
	if len(v) > 255 {
		panic("frame: short string over 255 octets")
	}
	b.buf, b.n = append(append(b.buf, byte(len(v))), v...), 0
	return b
}

func (b Builder) LongStr(v string) Builder {
	b = b.Long(uint32(len(v)))
	b.buf = append(b.buf, v...)
	return b
}

func (b Builder) Table(v Table) Builder {
	b = b.Long(uint32(len(v)))
	b.buf = append(b.buf, v...)
	return b
}

func (b Builder) Bit(v bool) Builder {
	if b.n == 0 || b.n == 8 {
		b.buf, b.n = append(b.buf, 0), 0
	}
	if v {
		b.buf[len(b.buf)-1] |= 1 << b.n
	}
	b.n++
	return b
}
