package frame

import "encoding/binary"

// Frame types (section 4.2.3).
const (
	TypeMethod    = 1
	TypeHeader    = 2
	TypeBody      = 3
	TypeHeartbeat = 8
)

const (
	headSize = 7 // type, channel, size
	endOctet = 0xCE

	// Overhead is what a frame adds to its payload, in octets.
	Overhead = headSize + 1
	// MinMax is the smallest frame_max that a peer may ask for (section 4.2.3).
	MinMax = 4096
	// PreTuneMax bounds a payload before frame_max is agreed.
	PreTuneMax = 8192
)

// Frame is one whole frame, from its type to its end octet.
type Frame []byte

// First is the first of whole frames that lie one behind the other in b.
func First(b []byte) Frame {
	return Frame(b[:Overhead+int(binary.BigEndian.Uint32(b[3:]))])
}

// Type is one of the Type constants, or unknown.
func (f Frame) Type() byte { return f[0] }

// Channel is 0 for the connection itself.
func (f Frame) Channel() uint16 { return binary.BigEndian.Uint16(f[1:]) }

// SetChannel changes the channel where it lies.
func (f Frame) SetChannel(ch uint16) { binary.BigEndian.PutUint16(f[1:], ch) }

// Payload is what is between the head and the end octet.
func (f Frame) Payload() []byte { return f[headSize : len(f)-1 : len(f)-1] }

// Method is the method that a method frame carries; 0 if the frame is too short
// to carry one.
func (f Frame) Method() Method {
	if len(f) < headSize+4+1 {
		return 0
	}
	return Method(binary.BigEndian.Uint32(f[headSize:]))
}

// Args reads the arguments of a method frame.
func (f Frame) Args() Args {
	p := f.Payload()
	if len(p) < 4 {
		return Args{bad: true}
	}
	return Args{b: p[4:]}
}

// Heartbeat is the frame that says a peer is alive. Not to be changed.
var Heartbeat = Frame{TypeHeartbeat, 0, 0, 0, 0, 0, 0, endOctet}

// ProtocolHeader opens an AMQP 0-9-1 connection (section 4.2.2). Not to be changed.
var ProtocolHeader = []byte{'A', 'M', 'Q', 'P', 0, 0, 9, 1}
