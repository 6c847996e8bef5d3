package fakebroker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"amqproxy/frame"
)

// conn is one client connection. One goroutine reads it and does what is asked, one
// writes (see outbox). From connection.open on, all that is below is for the reader
// with its vhost's lock, but for what others deliver: see vhost.
type conn struct {
	net.Conn
	server *Server
	reader *frame.Reader
	out    outbox
	beats  chan time.Duration // from the reader to the writer, once
	gone   chan struct{}      // closed by Close
	once   sync.Once

	vhost      *vhost // nil until connection.open
	user       string
	next       frame.Method  // of the handshake; 0 when it is over
	until      time.Time     // when the handshake, or our close, has taken too long
	silence    time.Duration // how long the client may be silent; 0 is for ever
	beat       time.Duration // of the heartbeats; 0 for none
	can        capabilities
	frameMax   int
	channelMax int // so many may be open
	channels   map[uint16]*channel
	owing      []*channel // that have confirms to give
	leaving    bool       // it gets no deliveries any more
	closing    bool       // only the client's answer to our close is waited for
	ended      bool       // all is said
}

// capabilities are what the client says that it understands.
type capabilities struct{ cancel, blocked, refusal bool }

func newConn(nc net.Conn, s *Server) *conn {
	c := &conn{
		Conn: nc, server: s, out: newOutbox(),
		beats: make(chan time.Duration, 1), gone: make(chan struct{}),
		next: frame.ConnectionStartOk, until: time.Now().Add(handshakeTimeout),
		frameMax: frameMax, channels: map[uint16]*channel{},
	}
	c.reader = frame.NewReader(&growing{}, frame.PreTuneMax)
	return c
}

// Close closes the socket and has all who wait for the client stop waiting.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// run is the connection's life.
func (c *conn) run() {
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := c.out.run(c.Conn, &c.server.control.frozen, c.gone, c.beats, c.resume); err != nil {
			c.Close()
		}
	})
	if c.greeted() {
		for c.batch() == nil && !c.ended && c.fill() == nil {
		}
	}
	c.locked(c.leave)
	c.SetWriteDeadline(time.Now().Add(lastWords))
	c.out.finish()
	writing.Wait()
	c.Close()
}

// greeted tells whether the client speaks the protocol. As RabbitMQ does it takes the
// headers of 0-8 and 0-9, too.
func (c *conn) greeted() bool {
	for {
		if err := c.fill(); err != nil {
			return false
		}
		switch header := c.reader.Take(len(frame.ProtocolHeader)); string(header) {
		case "":
		case "AMQP\x00\x00\x09\x01", "AMQP\x01\x01\x00\x09", "AMQP\x01\x01\x08\x00", "AMQP\x01\x01\x09\x01":
			c.out.add(appendStart)
			return true
		default:
			c.out.send(frame.ProtocolHeader)
			return false
		}
	}
}

// fill reads what is there.
func (c *conn) fill() error {
	for {
		deadline := c.until
		if deadline.IsZero() && c.silence > 0 {
			deadline = time.Now().Add(c.silence)
		}
		c.SetReadDeadline(deadline)
		n, err := c.Read(c.reader.Space())
		c.reader.Filled(n)
		frozen := c.server.control.frozen.shutNow() != nil
		if !c.server.control.frozen.wait(c.gone) {
			return net.ErrClosed
		}
		switch {
		case n > 0:
			return nil
		case frozen && errors.Is(err, os.ErrDeadlineExceeded): // it was not the client who slept
		case err != nil:
			return err
		}
	}
}

// batch takes all whole frames that were read. An error ends the connection.
func (c *conn) batch() error {
	for {
		if !c.out.wait(c.gone) {
			return net.ErrClosed
		}
		f, err := c.reader.Next()
		if f != nil {
			err = c.locked(func() error { return c.frame(f) })
		}
		var refused *frame.ConnError
		if errors.As(err, &refused) && !c.closing {
			c.refuse(refused)
			return nil
		}
		if err != nil || c.ended {
			return err
		}
		if f == nil {
			break
		}
		if !c.throttle(f) {
			return net.ErrClosed
		}
	}
	if err := c.locked(c.payConfirms); err != nil {
		return err
	}
	if c.reader.Buffered() == 0 {
		c.reader.Release() // thousands of idle connections are cheap
	}
	return nil
}

// locked does something with the vhost's lock, if the connection has a vhost.
func (c *conn) locked(do func() error) error {
	if v := c.vhost; v != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
	}
	return do()
}

// throttle waits behind a content while publishers are blocked; false when the client
// is gone. What came before has its confirms first.
func (c *conn) throttle(f frame.Frame) bool {
	alarm := &c.server.control.alarm
	if f.Type() != frame.TypeHeader && f.Type() != frame.TypeBody || alarm.shutNow() == nil || c.closing {
		return true
	}
	if c.can.blocked {
		reason := c.server.control.blockedReason()
		c.out.send(frame.Build(nil, 0, frame.ConnectionBlocked).ShortStr(reason).End())
	}
	c.locked(c.payConfirms)
	open := alarm.wait(c.gone)
	if open && c.can.blocked {
		c.out.send(frame.Build(nil, 0, frame.ConnectionUnblocked).End())
	}
	return open
}

// refuse sends connection.close. Nothing but the answer is taken from then on, and no
// longer than lastWords.
func (c *conn) refuse(e *frame.ConnError) {
	c.locked(c.leave)
	c.reader.Drop()
	c.out.add(func(dst []byte) []byte { return frame.AppendConnClose(dst, e) })
	c.closing, c.until = true, time.Now().Add(lastWords)
}

// leave takes the connection out of its vhost.
func (c *conn) leave() error {
	c.leaving = true
	for _, ch := range c.channels {
		ch.close()
	}
	c.channels, c.owing = map[uint16]*channel{}, nil
	if c.vhost != nil {
		c.vhost.forget(c)
	}
	return nil
}

// resume goes on with deliveries when there is room for them again.
func (c *conn) resume() {
	c.vhost.mu.Lock()
	defer c.vhost.mu.Unlock()
	now := time.Now()
	for _, ch := range c.channels {
		ch.resume(now)
	}
}

// frame takes one frame.
func (c *conn) frame(f frame.Frame) error {
	n := f.Channel()
	switch {
	case c.closing:
		c.ended = n == 0 && f.Type() == frame.TypeMethod && f.Method() == frame.ConnectionCloseOk
		return nil
	case f.Type() == frame.TypeHeartbeat && n == 0 && len(f.Payload()) == 0:
		return nil
	case c.next != 0:
		return c.handshake(f)
	case f.Type() == frame.TypeHeartbeat:
		return &frame.ConnError{Code: frame.UnexpectedFrame, Text: octets(f)}
	case f.Type() == 0, f.Type() > frame.TypeBody:
		return &frame.ConnError{Code: frame.FrameError, Text: octets(f) + ": unknown_frame"}
	case n == 0:
		return c.connection(f)
	}
	ch := c.channels[n]
	switch {
	case ch != nil:
		return ch.frame(f)
	case f.Type() == frame.TypeMethod && f.Method() == frame.ChannelOpen:
		return c.openChannel(n)
	case f.Type() == frame.TypeMethod && f.Method() == frame.ChannelCloseOk:
		return nil
	}
	return &frame.ConnError{Code: frame.ChannelErrorCode, Text: "expected 'channel.open'", Method: f.Method()}
}

// octets is how RabbitMQ shows a frame that it does not understand.
func octets(f frame.Frame) string {
	return fmt.Sprintf("type %d, all octets = %s", f.Type(), erlang(f.Payload()))
}

// erlang writes octets as Erlang does: <<1,2>>.
func erlang(b []byte) string {
	return "<<" + strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ",") + ">>"
}

// connection takes a frame on channel 0 of an open connection.
func (c *conn) connection(f frame.Frame) error {
	if f.Type() != frame.TypeMethod {
		return &frame.ConnError{Code: frame.UnexpectedFrame, Text: "content on channel 0"}
	}
	switch f.Method() {
	case frame.ConnectionClose:
		c.leave()
		c.out.add(func(dst []byte) []byte { return frame.Build(dst, 0, frame.ConnectionCloseOk).End() })
		c.ended = true
	case frame.ConnectionUpdateSecret:
		c.out.add(func(dst []byte) []byte { return frame.Build(dst, 0, frame.ConnectionUpdateSecretOk).End() })
	default:
		return &frame.ConnError{Code: frame.ChannelErrorCode, Text: "unexpected method in connection state running", Method: f.Method()}
	}
	return nil
}
