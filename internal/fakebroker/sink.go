package fakebroker

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"amqproxy/frame"
)

// sink is one client connection of a Server that is a Sink. One goroutine reads it and
// answers; each flood is one more.
type sink struct {
	net.Conn
	server  *Server
	reader  *frame.Reader
	buffers growing
	beat    time.Duration // how long we may be silent; 0 is for ever
	floods  sync.WaitGroup

	channels []*sinkChannel // by number; nil where closed
	owing    []*sinkChannel // those whose publisher waits for a confirm
	echo     *sinkConsumer
	out      []byte // answers of the batch
	done     bool

	writing sync.Mutex // one at a time: floods beside answers
}

func newSink(nc net.Conn, s *Server) *sink {
	c := &sink{Conn: nc, server: s}
	c.reader = frame.NewReader(&c.buffers, frame.PreTuneMax)
	return c
}

// growing are a connection's buffers: small while little comes, so that
// thousands of idle connections are cheap, and large for one that fills them.
type growing struct{ large bool }

func (g *growing) Get() []byte {
	if g.large {
		return make([]byte, 256<<10)
	}
	return make([]byte, 2<<10)
}

func (*growing) Put([]byte) {}

// run is the connection's life.
func (c *sink) run() {
	defer c.floods.Wait()
	defer c.Close()
	if !c.greeted() {
		return
	}
	c.out = appendSinkStart(c.out)
	for {
		if err := c.batch(); err != nil {
			return
		}
		if err := c.flush(); err != nil || c.done {
			return
		}
		if err := c.fill(); err != nil {
			return
		}
	}
}

func (c *sink) greeted() bool {
	for {
		if err := c.fill(); err != nil {
			return false
		}
		if header := c.reader.Take(len(frame.ProtocolHeader)); header != nil {
			if string(header) == string(frame.ProtocolHeader) {
				return true
			}
			c.Write(frame.ProtocolHeader)
			return false
		}
	}
}

// fill reads what is there, and says that we live while nothing comes.
func (c *sink) fill() error {
	for {
		if c.beat > 0 {
			c.SetReadDeadline(time.Now().Add(c.beat))
		}
		space := c.reader.Space()
		n, err := c.Read(space)
		c.reader.Filled(n)
		switch {
		case n > 0:
			c.buffers.large = c.buffers.large || n == len(space)
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.out = append(c.out, frame.Heartbeat...)
			if err := c.flush(); err != nil {
				return err
			}
		case err == nil:
			return io.ErrNoProgress
		default:
			return err
		}
	}
}

// batch takes all whole frames that were read.
func (c *sink) batch() error {
	for {
		f, err := c.reader.Next()
		if f != nil {
			err = c.frame(f)
		}
		var ce *frame.ConnError
		if errors.As(err, &ce) {
			c.out = frame.AppendConnClose(c.out, ce)
			c.flush()
		}
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
	}
	for _, ch := range c.owing {
		c.out = frame.Build(c.out, ch.number, frame.BasicAck).LongLong(ch.published).Bit(true).End()
		ch.owes = false
	}
	c.owing = c.owing[:0]
	if c.reader.Buffered() == 0 {
		c.reader.Release() // the next buffer may be a larger one
	}
	return nil
}

func (c *sink) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *sink) write(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.Write(b)
	return err
}

// frame takes one frame.
func (c *sink) frame(f frame.Frame) error {
	n := f.Channel()
	if n == 0 {
		return c.connection(f)
	}
	var ch *sinkChannel
	if int(n) < len(c.channels) {
		ch = c.channels[n]
	}
	switch m := f.Method(); {
	case f.Type() != frame.TypeMethod && ch != nil:
		return c.content(ch, f)
	case f.Type() != frame.TypeMethod:
		return nil // of a channel that we don't know any more
	case m == frame.ChannelOpen:
		return c.open(n)
	case ch == nil && (m == frame.ChannelCloseOk || m == frame.ChannelClose):
		return nil // it has heard of our close, or is about to
	case ch == nil:
		return &frame.ConnError{Code: frame.ChannelErrorCode, Text: "expected 'channel.open'", Method: m}
	case m == frame.BasicPublish:
		return c.publish(ch, f)
	default:
		return c.method(ch, f)
	}
}

// connection takes a frame on channel 0.
func (c *sink) connection(f frame.Frame) error {
	a := f.Args()
	if f.Type() != frame.TypeMethod {
		return nil
	}
	switch f.Method() {
	case frame.ConnectionStartOk:
		c.out = frame.Build(c.out, 0, frame.ConnectionTune).Short(channelMax).Long(frameMax).Short(heartbeatSeconds).End()
	case frame.ConnectionTuneOk:
		a.Short()
		if max := a.Long(); max != 0 {
			c.reader.SetMax(int(max))
		} else {
			c.reader.SetMax(frameMax)
		}
		c.beat = time.Duration(a.Short()) * time.Second / 2
	case frame.ConnectionOpen:
		c.out = frame.Build(c.out, 0, frame.ConnectionOpenOk).ShortStr("").End()
	case frame.ConnectionClose:
		c.out = frame.Build(c.out, 0, frame.ConnectionCloseOk).End()
		c.done = true
	case frame.ConnectionCloseOk:
		c.done = true
	}
	return nil
}

func appendSinkStart(dst []byte) []byte {
	caps := frame.Table{}.AppendFlag("publisher_confirms", true).AppendFlag("basic.nack", true).
		AppendFlag("consumer_cancel_notify", true).AppendFlag("authentication_failure_close", true)
	props := frame.Table{}.AppendString("product", "fakebroker").AppendTable("capabilities", caps)
	return frame.Build(dst, 0, frame.ConnectionStart).Octet(0).Octet(9).Table(props).LongStr("PLAIN AMQPLAIN").LongStr("en_US").End()
}
