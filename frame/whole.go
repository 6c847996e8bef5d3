package frame

import "encoding/binary"

// Whole finds a whole message at the beginning of b: a method frame, its content
// header, and the one body frame that holds all of its content, or none if it has
// none, on one channel. It gives the lengths of the frames in octets; a method of 0
// says that there is no such message, or not all of it is there.
func Whole(b []byte) (method, header, body int) {
	method = whole(b, TypeMethod, b)
	if method == 0 {
		return 0, 0, 0
	}
	header = whole(b[method:], TypeHeader, b)
	if header < headSize+headerFixed+2+1 {
		return 0, 0, 0
	}
	size := binary.BigEndian.Uint64(b[method+headSize+4:])
	if size == 0 {
		return method, header, 0
	}
	body = whole(b[method+header:], TypeBody, b)
	if body < Overhead || uint64(body-Overhead) != size {
		return 0, 0, 0
	}
	return method, header, body
}

// whole is the length of the frame at the beginning of b, if all of it is there and
// it is of this type and on the channel of frame like; 0 if not.
func whole(b []byte, kind byte, like []byte) int {
	if len(b) < Overhead || b[0] != kind || b[1] != like[1] || b[2] != like[2] {
		return 0
	}
	n := uint64(binary.BigEndian.Uint32(b[3:])) + Overhead
	if n > uint64(len(b)) || b[n-1] != endOctet {
		return 0
	}
	return int(n)
}

// PublishArgs reads the arguments of a basic.publish that are looked at for every
// message; false if f is another method or malformed.
func PublishArgs(f Frame) (exchange, key []byte, ok bool) {
	const at = headSize + 4 + 2 // behind the reserved short
	if len(f) < at+3+1 || f.Method() != BasicPublish {
		return nil, nil, false
	}
	n := int(f[at])
	if len(f) < at+n+3+1 {
		return nil, nil, false
	}
	k := int(f[at+1+n])
	if len(f) != at+n+k+3+1 {
		return nil, nil, false
	}
	return f[at+1 : at+1+n], f[at+n+2 : at+n+2+k], true
}

// DeliverExchange reads the exchange of a basic.deliver; false if f is another method
// or malformed.
func DeliverExchange(f Frame) (exchange []byte, ok bool) {
	const at = headSize + 4
	if len(f) < at+1+1 || f.Method() != BasicDeliver {
		return nil, false
	}
	e := at + 1 + int(f[at]) + 8 + 1
	if len(f) < e+1+1 || len(f) < e+1+int(f[e])+1 {
		return nil, false
	}
	return f[e+1 : e+1+int(f[e])], true
}

// DeliverTag is where the consumer tag of a basic.deliver begins, behind its length.
const DeliverTag = headSize + 4 + 1

// TagAt is where the delivery tag is in a basic.deliver or basic.get-ok, 8 octets; 0 if f is
// another method or malformed.
func TagAt(f Frame) int {
	const at = headSize + 4
	if len(f) < at+8+1+1 {
		return 0
	}
	switch f.Method() {
	case BasicGetOk:
		return at
	case BasicDeliver:
		if i := at + 1 + int(f[at]); len(f) >= i+8+1+1 {
			return i
		}
	}
	return 0
}

// Readdress puts all frames of b, which are whole, on another channel.
func Readdress(b []byte, channel uint16) {
	for len(b) > 0 {
		n := len(First(b))
		b[1], b[2] = byte(channel>>8), byte(channel)
		b = b[n:]
	}
}
