package intercept

import (
	"encoding/binary"

	"amqproxy/frame"
)

// bccEntry is what comes before the items of a BCC entry: the key, the type and
// the array's length, which is filled in.
const bccEntry = "\x03BCCA\x00\x00\x00\x00"

// growth is how many octets Splice adds.
func growth(h frame.Header, item []byte) int {
	switch _, end, ok := findBCC(h); {
	case !ok:
		return 0
	case h.Table == nil:
		return len(item) + len(bccEntry) + 4
	case end == 0:
		return len(item) + len(bccEntry)
	}
	return len(item)
}

// Splice appends header frame f to dst with one more item in its BCC header. The
// broker routes by it, strips the header, and the consumer sees nothing of it,
// but for an empty headers table where the publisher sent none.
//
// Only the first BCC entry counts for RabbitMQ, so the item goes into the
// client's own array if there is one. ok is false, and dst is as it was, when the
// frame must go on untouched so that the broker refuses it: a BCC or CC that is
// no array, or a table that is malformed.
func Splice(dst []byte, f frame.Frame, h frame.Header, item []byte) (_ []byte, ok bool) {
	start := len(dst)
	at, end, ok := findBCC(h)
	if !ok {
		return dst, false
	}
	tableLen := uint32(len(h.Table) + len(item))
	dst = append(dst, f[:h.TableAt]...)
	switch {
	case h.Table == nil:
		flags := h.Flags | frame.FlagHeaders
		binary.BigEndian.PutUint16(dst[start+flagsAt:], flags)
		dst = binary.BigEndian.AppendUint32(dst, tableLen+uint32(len(bccEntry)))
		dst = appendBCC(dst, item)
		dst = append(dst, f[h.TableAt:]...)
	case end == 0:
		dst = binary.BigEndian.AppendUint32(dst, tableLen+uint32(len(bccEntry)))
		dst = appendBCC(dst, item)
		dst = append(dst, f[h.TableAt+4:]...)
	default:
		dst = binary.BigEndian.AppendUint32(dst, tableLen)
		from := len(dst)
		dst = append(dst, h.Table[:end]...)
		binary.BigEndian.PutUint32(dst[from+at:], uint32(end-at-4+len(item)))
		dst = append(dst, item...)
		dst = append(dst, f[h.TableAt+4+end:]...)
	}
	binary.BigEndian.PutUint32(dst[start+sizeAt:], uint32(len(dst)-start-frame.Overhead))
	return dst, true
}

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
