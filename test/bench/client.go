package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"amqproxy/frame"
)

// patience is how long an answer may take that has to come.
const patience = 20 * time.Second

// client is a connection with channel 1 open.
type client struct {
	net.Conn
	frames *frame.Reader
}

type readBuffers struct{ size int }

func (b readBuffers) Get() []byte { return make([]byte, b.size) }
func (readBuffers) Put([]byte)    {}

const (
	loginFrame = `0 connection.start-ok client-properties={product="bench"} mechanism="PLAIN" response="\x00guest\x00guest" locale="en_US"`
	tuneFrame  = `0 connection.tune-ok channel-max=2047 frame-max=131072`
	openFrame  = `0 connection.open virtual-host="/"`
)

// dial connects, logs in as guest and opens channel 1. Nobody sends heartbeats.
func dial(addr string) (*client, error) {
	return dialSmall(addr, 256<<10)
}

// dialSmall is dial with a buffer of another size.
func dialSmall(addr string, buffer int) (*client, error) {
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	c := &client{nc, frame.NewReader(readBuffers{buffer}, 1<<20)}
	if err := c.open(); err != nil {
		nc.Close()
		return nil, fmt.Errorf("connection to %s: %w", addr, err)
	}
	return c, nil
}

func (c *client) open() error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(frame.ProtocolHeader); err != nil {
		return err
	}
	if _, err := c.want(frame.ConnectionStart); err != nil {
		return err
	}
	steps := []struct {
		send string
		want frame.Method
	}{
		{loginFrame, frame.ConnectionTune},
		{tuneFrame + "\n" + openFrame, frame.ConnectionOpenOk},
		{"1 channel.open", frame.ChannelOpenOk},
	}
	for _, s := range steps {
		if _, err := c.call(s.send, s.want); err != nil {
			return err
		}
	}
	return c.SetDeadline(time.Time{})
}

// call sends frames, given as lines of text, and waits for a method.
func (c *client) call(text string, want frame.Method) (frame.Frame, error) {
	b, err := encode(text)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	return c.want(want)
}

// want waits for a method; what else comes meanwhile is dropped, but for a close.
func (c *client) want(m frame.Method) (frame.Frame, error) {
	for {
		f, err := c.next()
		if err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", m, err)
		}
		if f.Type() != frame.TypeMethod {
			continue
		}
		switch f.Method() {
		case m:
			return f, nil
		case frame.ChannelClose, frame.ConnectionClose:
			return nil, errors.New(f.String())
		}
	}
}

// next is the next frame. It holds until the call after.
func (c *client) next() (frame.Frame, error) {
	for {
		if f, err := c.frames.Next(); f != nil || err != nil {
			return f, err
		}
		n, err := c.Read(c.frames.Space())
		c.frames.Filled(n)
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// end closes the connection in order.
func (c *client) end() error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err := c.call(`0 connection.close reply-code=200 reply-text="bye"`, frame.ConnectionCloseOk)
	return err
}

// encode makes frames of lines of text.
func encode(text string) ([]byte, error) {
	var b []byte
	for rest := text; rest != ""; {
		var line string
		line, rest = cutLine(rest)
		f, err := frame.ParseText(line)
		if err != nil {
			return nil, err
		}
		b = append(b, f...)
	}
	return b, nil
}

func cutLine(text string) (line, rest string) {
	for i := range len(text) {
		if text[i] == '\n' {
			return text[:i], text[i+1:]
		}
	}
	return text, ""
}

// appendMessage appends a publish on channel 1 of a transient message with a body
// of size octets, the first eight of them 0 (they may hold a time).
func appendMessage(dst []byte, exchange, key string, size int) []byte {
	dst = frame.Build(dst, 1, frame.BasicPublish).Short(0).ShortStr(exchange).ShortStr(key).Octet(0).End()
	dst = append(dst, frame.TypeHeader, 0, 1, 0, 0, 0, 15, 0, 60, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(size))
	dst = binary.BigEndian.AppendUint16(dst, frame.FlagDeliveryMode)
	dst = append(dst, 1, frameEnd)
	dst = append(dst, frame.TypeBody, 0, 1)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	for i := range size {
		dst = append(dst, "\x00x"[min(i/8, 1)])
	}
	return append(dst, frameEnd)
}

const frameEnd = 0xCE
