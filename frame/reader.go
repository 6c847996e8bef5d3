package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Reader cuts a stream of bytes into frames. It does no I/O: its owner reads
// into Space, says how much with Filled, and takes frames with Next until there
// is no whole one left. It holds no buffer while it holds no bytes.
//
// The zero Reader is not ready; SetMax and a source of buffers come first.
type Reader struct {
	buf     []byte
	r, w    int // buf[r:w] is not yet taken
	max     int // largest payload that is let in
	buffers Buffers
}

// Buffers lends the Reader its memory. Get gives buffers of one size; Put is
// given some of other sizes too and lets them go.
type Buffers interface {
	Get() []byte
	Put([]byte)
}

// NewReader returns a Reader that lets in payloads of up to max octets.
func NewReader(buffers Buffers, max int) *Reader {
	return &Reader{buffers: buffers, max: max}
}

// SetMax changes the largest payload that is let in. RabbitMQ's own limit is
// lenient: a payload of the whole frame_max, not frame_max less the Overhead.
func (r *Reader) SetMax(max int) { r.max = max }

// Space returns room to read into, never empty. Views given out before are void.
func (r *Reader) Space() []byte {
	if r.r > 0 { // a frame in two pieces moves to the front
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if need := r.need(); need > len(r.buf) {
		buf := r.buffers.Get()
		if need > len(buf) {
			r.buffers.Put(buf)
			buf = make([]byte, need)
		}
		r.replace(buf)
	}
	return r.buf[r.w:]
}

// need is how long the first frame is, if its head is here and it is within
// limits. At least one octet more than is held, so that Space is never empty.
func (r *Reader) need() int {
	need := r.w + 1
	if r.w-r.r >= headSize {
		if size := r.size(); size <= r.max {
			need = max(need, size+Overhead)
		}
	}
	return need
}

func (r *Reader) size() int {
	return int(binary.BigEndian.Uint32(r.buf[r.r+3:]))
}

// Filled says that n octets were read into Space.
func (r *Reader) Filled(n int) { r.w += n }

// Buffered is how many octets are held and not yet taken.
func (r *Reader) Buffered() int { return r.w - r.r }

// Pending are the octets that are held and not yet taken, frames or not. Skip takes
// some of them.
func (r *Reader) Pending() []byte { return r.buf[r.r:r.w] }

// Skip takes n of the octets that Pending shows, which must be whole frames.
func (r *Reader) Skip(n int) { r.r += n }

// Take takes n raw octets, for what comes before the first frame; nil while
// there are fewer.
func (r *Reader) Take(n int) []byte {
	if r.w-r.r < n {
		return nil
	}
	b := r.buf[r.r : r.r+n : r.r+n]
	r.r += n
	return b
}

// Next takes the next whole frame; nil when more octets are needed. Its errors
// are ConnErrors with code 501, given as soon as the head shows the fault. A
// payload is judged by the limit before memory is taken for it.
//
// Frames that came one after the other lie one after the other, and their
// capacity reaches to the buffer's end: a run of them can be joined by reslicing.
// Never append to one.
func (r *Reader) Next() (Frame, error) {
	held := r.w - r.r
	if held < headSize {
		return nil, nil
	}
	size := r.size()
	if size > r.max {
		return nil, &ConnError{Code: FrameError, Text: fmt.Sprintf("frame of %d bytes is larger than the limit of %d", size, r.max)}
	}
	end := r.r + headSize + size
	if end >= r.w {
		return nil, nil
	}
	if r.buf[end] != endOctet {
		return nil, &ConnError{Code: FrameError, Text: fmt.Sprintf("invalid frame end octet 0x%02X", r.buf[end])}
	}
	f := Frame(r.buf[r.r : end+1])
	r.r = end + 1
	return f, nil
}

// Release gives the buffer back while nothing is to be read. What is left of a
// frame is kept in as little memory as it needs.
func (r *Reader) Release() {
	switch left := r.w - r.r; {
	case r.buf == nil:
	case left == 0:
		r.replace(nil)
	case left < len(r.buf)/4:
		r.replace(bytes.Clone(r.buf[r.r:r.w]))
	}
}

// Drop gives the buffer back with what is left in it.
func (r *Reader) Drop() {
	r.r = r.w
	r.replace(nil)
}

// replace moves what is held into buf and gives the old buffer back.
func (r *Reader) replace(buf []byte) {
	r.w = copy(buf, r.buf[r.r:r.w])
	r.r = 0
	if r.buf != nil {
		r.buffers.Put(r.buf)
	}
	r.buf = buf
}
