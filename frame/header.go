package frame

import "encoding/binary"

// Property flags of the basic class, in the order of their values on the wire
// (section 4.2.6.1).
const (
	FlagContentType     = 1 << 15
	FlagContentEncoding = 1 << 14
	FlagHeaders         = 1 << 13
	FlagDeliveryMode    = 1 << 12
	FlagPriority        = 1 << 11
	FlagCorrelationID   = 1 << 10
	FlagReplyTo         = 1 << 9
	FlagExpiration      = 1 << 8
	FlagMessageID       = 1 << 7
	FlagTimestamp       = 1 << 6
	FlagType            = 1 << 5
	FlagUserID          = 1 << 4
	FlagAppID           = 1 << 3
	FlagClusterID       = 1 << 2
)

// headerFixed is class, weight and body size; the flags follow.
const headerFixed = 12

// Header is a content header of the basic class with its headers table found.
type Header struct {
	BodySize uint64
	Flags    uint16
	// TableAt is where in the frame the headers table's length lies, or where
	// it would be put if there is none.
	TableAt int
	Table   Table // nil if there is none
}

// ParseHeader finds the headers table of header frame f. ok is false when the
// frame is too short for what its flags announce up to the table; nothing behind
// the table is looked at. Like RabbitMQ it knows no second word of flags.
func ParseHeader(f Frame) (h Header, ok bool) {
	p := f.Payload()
	if len(p) < headerFixed+2 {
		return Header{}, false
	}
	h.BodySize = binary.BigEndian.Uint64(p[4:])
	h.Flags = binary.BigEndian.Uint16(p[headerFixed:])
	a := Args{b: p[headerFixed+2:]}
	if h.Flags&FlagContentType != 0 {
		a.ShortStr()
	}
	if h.Flags&FlagContentEncoding != 0 {
		a.ShortStr()
	}
	h.TableAt = headSize + len(p) - len(a.b)
	if h.Flags&FlagHeaders != 0 {
		h.Table = a.Table()
		if h.Table == nil {
			h.Table = Table{}
		}
	}
	return h, a.OK()
}

// Property gives the octets of the property with flag, which must be one behind
// the headers table that is a string or the timestamp. found is false when the
// message has none; ok is false when the header is malformed.
func (h Header) Property(f Frame, flag uint16) (value []byte, found, ok bool) {
	if h.Flags&flag == 0 {
		return nil, false, true
	}
	a := Args{b: f[h.TableAt : len(f)-1]}
	if h.Flags&FlagHeaders != 0 {
		a.Table()
	}
	for at := uint16(FlagDeliveryMode); at > flag; at >>= 1 {
		if h.Flags&at != 0 {
			skipProperty(&a, at)
		}
	}
	if flag == FlagTimestamp {
		value = a.take(8)
	} else {
		value = a.ShortStr()
	}
	return value, true, a.OK()
}

func skipProperty(a *Args, flag uint16) {
	switch flag {
	case FlagDeliveryMode, FlagPriority:
		a.Octet()
	case FlagTimestamp:
		a.LongLong()
	default:
		a.ShortStr()
	}
}

// BodySize is the announced size of the content of header frame f; false if the
// frame is too short to say.
func BodySize(f Frame) (uint64, bool) {
	p := f.Payload()
	if len(p) < headerFixed {
		return 0, false
	}
	return binary.BigEndian.Uint64(p[4:]), true
}

// AppendContent appends the content header and the body frames of a message, none
// larger than max octets. properties are the flags and values as they lie on the wire
// behind the body size.
func AppendContent(dst []byte, ch uint16, properties, body []byte, max int) []byte {
	start := len(dst)
	dst = append(dst, TypeHeader, byte(ch>>8), byte(ch), 0, 0, 0, 0, 0, 60, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(body)))
	dst = finish(append(dst, properties...), start)
	for len(body) > 0 {
		n := min(len(body), max-Overhead)
		start = len(dst)
		dst = append(dst, TypeBody, byte(ch>>8), byte(ch), 0, 0, 0, 0)
		dst = finish(append(dst, body[:n]...), start)
		body = body[n:]
	}
	return dst
}
