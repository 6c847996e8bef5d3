package intercept

import (
	"encoding/binary"

	"amqproxy/frame"
)

// bccEntry is what comes before the items of a BCC entry: the key, the type and
// the array's length, which is filled in.
const bccEntry = "\x03BCCA\x00\x00\x00\x00"

// seam is where in a header frame the item goes. It is the same for all frames that
// are alike from their flags on.
type seam struct {
	tableAt  int // see frame.Header
	tableLen int // of the headers table; -1 if there is none
	at, end  int // see findBCC
	flags    uint16
	persist  bool // the delivery mode becomes persistent; it lies behind the headers
}

// findSeam finds it; not ok when the frame must go on untouched so that the broker
// refuses it: a BCC or CC that is no array, or what is malformed as far as it is read.
func findSeam(f frame.Frame, h frame.Header, persist bool) (s seam, ok bool) {
	s = seam{tableAt: h.TableAt, tableLen: len(h.Table), flags: h.Flags, persist: persist}
	if h.Table == nil {
		s.tableLen = -1
	}
	s.at, s.end, ok = findBCC(h)
	if persist && h.Flags&frame.FlagDeliveryMode != 0 {
		ok = ok && s.behind() < len(f)-1
	}
	return s, ok
}

// behind is where in the frame the headers table ends.
func (s seam) behind() int {
	if s.tableLen < 0 {
		return s.tableAt
	}
	return s.tableAt + 4 + s.tableLen
}

// growth is how many octets splice adds.
func (s seam) growth(item []byte) int {
	n := len(item)
	if s.persist && s.flags&frame.FlagDeliveryMode == 0 {
		n++
	}
	switch {
	case s.tableLen < 0:
		return n + len(bccEntry) + 4
	case s.end == 0:
		return n + len(bccEntry)
	}
	return n
}

// splice appends header frame f to dst with one more item in its BCC header. The
// broker routes by it, strips the header, and the consumer sees nothing of it, but
// for an empty headers table where the publisher sent none.
//
// Only the first BCC entry counts for RabbitMQ, so the item goes into the client's
// own array if there is one.
func (s seam) splice(dst []byte, f frame.Frame, item []byte) []byte {
	start := len(dst)
	dst = append(dst, f[:s.tableAt]...)
	tableLen, behind := uint32(s.tableLen+len(item)), s.behind()
	switch {
	case s.tableLen < 0:
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(item)+len(bccEntry)))
		dst = appendBCC(dst, item)
	case s.end == 0:
		dst = binary.BigEndian.AppendUint32(dst, tableLen+uint32(len(bccEntry)))
		dst = appendBCC(dst, item)
		dst = append(dst, f[s.tableAt+4:behind]...)
	default:
		dst = binary.BigEndian.AppendUint32(dst, tableLen)
		table := f[s.tableAt+4 : behind]
		from := len(dst)
		dst = append(dst, table[:s.end]...)
		binary.BigEndian.PutUint32(dst[from+s.at:], uint32(s.end-s.at-4+len(item)))
		dst = append(dst, item...)
		dst = append(dst, table[s.end:]...)
	}
	flags := s.flags | frame.FlagHeaders
	if s.persist {
		dst = append(dst, persistent)
		if s.flags&frame.FlagDeliveryMode != 0 {
			behind++
		}
		flags |= frame.FlagDeliveryMode
	}
	dst = append(dst, f[behind:]...)
	binary.BigEndian.PutUint16(dst[start+flagsAt:], flags)
	binary.BigEndian.PutUint32(dst[start+sizeAt:], uint32(len(dst)-start-frame.Overhead))
	return dst
}

// persistent is the delivery mode of messages that a broker keeps over a restart.
const persistent = 2

const (
	sizeAt  = 3  // of the payload's size in a frame
	flagsAt = 19 // of the property flags in a header frame
)

func appendBCC(dst, item []byte) []byte {
	dst = append(dst, bccEntry...)
	binary.BigEndian.PutUint32(dst[len(dst)-4:], uint32(len(item)))
	return append(dst, item...)
}

// findBCC finds the first BCC entry: at is where in the table its array's length
// lies, end where its items end; 0 when there is none. Not ok when the first CC
// or BCC is no array: later ones are of no account to RabbitMQ.
func findBCC(h frame.Header) (at, end int, ok bool) {
	cc := false
	for t := h.Table; len(t) > 0; {
		key, v, rest, ok := t.Next()
		if !ok {
			return 0, 0, false
		}
		switch {
		case string(key) == "CC" && !cc:
			cc = true
		case string(key) == "BCC" && end == 0:
			end = len(h.Table) - len(rest)
			at = end - len(v.Value) - 4
		default:
			t = rest
			continue
		}
		if v.Type != 'A' {
			return 0, 0, false
		}
		t = rest
	}
	return at, end, true
}
