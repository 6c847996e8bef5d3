package fakebroker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"amqproxy/frame"
)

// message is what was published, as it is delivered. It is not changed: queues share
// it.
type message struct {
	exchange   string
	keys       []string // the publisher's, then those of the headers CC and BCC
	properties []byte   // as on the wire, without BCC
	headers    frame.Table
	body       []byte
	priority   int
	expires    bool
	ttl        time.Duration // if it expires
}

// properties are those of a content header, as they lie on the wire, by the number of
// the bit in the flags; a headers table is without its length.
type properties [16][]byte

const (
	headersBit    = 13
	modeBit       = 12
	priorityBit   = 11
	expirationBit = 8
	timestampBit  = 6
	userBit       = 4
)

// readProperties reads a header frame; false if it is malformed.
func readProperties(f frame.Frame) (p properties, ok bool) {
	a := f.Args() // behind class and weight
	a.LongLong()
	flags := a.Short()
	for bit := 15; bit >= 2; bit-- {
		if flags&(1<<bit) == 0 {
			continue
		}
		switch bit {
		case headersBit:
			p[bit] = append([]byte{}, a.Table()...)
		case modeBit, priorityBit:
			p[bit] = []byte{a.Octet()}
		case timestampBit:
			p[bit] = binary.BigEndian.AppendUint64(nil, a.LongLong())
		default:
			p[bit] = append([]byte{}, a.ShortStr()...)
		}
	}
	t := frame.Table(p[headersBit])
	for ok = true; ok; {
		_, _, t, ok = t.Next()
	}
	return p, a.OK() && len(t) == 0
}

// append writes them as they lie on the wire.
func (p *properties) append(dst []byte) []byte {
	var flags uint16
	for bit, value := range p {
		if value != nil {
			flags |= 1 << bit
		}
	}
	dst = binary.BigEndian.AppendUint16(dst, flags)
	for bit := 15; bit >= 2; bit-- {
		switch value := p[bit]; {
		case value == nil:
		case bit == headersBit:
			dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(value))), value...)
		case bit == modeBit, bit == priorityBit, bit == timestampBit:
			dst = append(dst, value...)
		default:
			dst = append(append(dst, byte(len(value))), value...)
		}
	}
	return dst
}

// newMessage makes a message of what a user published.
func newMessage(exchange, key string, header frame.Frame, body []byte, user string) (*message, error) {
	p, ok := readProperties(header)
	if !ok {
		return nil, &frame.ConnError{Code: frame.InternalError}
	}
	m := &message{exchange: exchange, keys: []string{key}, body: body}
	if id := p[userBit]; id != nil && string(id) != user {
		return nil, refuse(frame.PreconditionFailed, "user_id property set to '%s' but authenticated user was '%s'", id, user)
	}
	if text := p[expirationBit]; text != nil {
		ms, fault := readExpiration(string(text))
		if fault != "" {
			return nil, refuse(frame.PreconditionFailed, "invalid expiration '%s': %s", text, fault)
		}
		m.expires, m.ttl = true, time.Duration(ms)*time.Millisecond
	}
	if n := p[priorityBit]; n != nil {
		m.priority = int(n[0])
	}
	for _, name := range []string{"CC", "BCC"} {
		if err := m.addKeys(frame.Table(p[headersBit]), name); err != nil {
			return nil, err
		}
	}
	if p[headersBit] != nil {
		p[headersBit] = without(p[headersBit], "BCC")
	}
	m.headers, m.properties = p[headersBit], p.append(nil)
	return m, nil
}

// readExpiration reads milliseconds as RabbitMQ does, which finds other words for each
// fault.
func readExpiration(text string) (ms int, fault string) {
	digits := 0
	for digits < len(text) && (text[digits] >= '0' && text[digits] <= '9' || digits == 0 && text[0] == '-') {
		digits++
	}
	ms, err := strconv.Atoi(text[:digits])
	switch {
	case errors.Is(err, strconv.ErrRange), ms > maxMilliseconds:
		return 0, "{value_too_large," + text + "}"
	case err != nil:
		return 0, "no_integer"
	case digits < len(text):
		return 0, fmt.Sprintf("{leftover_string,%q}", text[digits:])
	case ms < 0:
		return 0, "{value_negative," + text + "}"
	}
	return ms, ""
}

// addKeys adds the keys of a header that holds some.
func (m *message) addKeys(headers frame.Table, name string) error {
	list, found, _ := headers.Find(name)
	if !found {
		return nil
	}
	if list.Type != 'A' {
		return refuse(frame.PreconditionFailed, "invalid message: {unacceptable_type_in_header,%q,%s}", name, typeNames[list.Type])
	}
	for rest := list.Value; len(rest) > 0; {
		item, after, ok := frame.NextItem(rest)
		if !ok {
			return &frame.ConnError{Code: frame.InternalError}
		}
		if key := string(item.Value); item.Type == 'S' && !slices.Contains(m.keys, key) {
			m.keys = append(m.keys, key)
		}
		rest = after
	}
	return nil
}

// without is a table without an entry; never nil.
func without(t frame.Table, name string) frame.Table {
	out := frame.Table{}
	for {
		key, f, rest, ok := t.Next()
		if !ok {
			return out
		}
		if string(key) != name {
			out = out.Append(string(key), f)
		}
		t = rest
	}
}

// appendTo appends header and bodies.
func (m *message) appendTo(dst []byte, ch *channel) []byte {
	return frame.AppendContent(dst, ch.number, m.properties, m.body, ch.conn.frameMax)
}
