package proxy

import (
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"
)

// readSize is how much is read at once: so much that under load a system call
// carries hundreds of messages.
const readSize = 256 << 10

// readBuffers lends buffers to whoever has something to read just now.
type readBuffers struct{ pool sync.Pool }

var buffers = &readBuffers{sync.Pool{New: func() any { return new([readSize]byte) }}}

func (b *readBuffers) Get() []byte { return b.pool.Get().(*[readSize]byte)[:] }

func (b *readBuffers) Put(buf []byte) {
	if len(buf) == readSize {
		b.pool.Put((*[readSize]byte)(buf))
	}
}

// side is one of the sockets of a session.
type side struct {
	name string // "client", "broker", or for another link the node's
	link int    // the core's index of a link that is not the home link; -1 for the others
	conn net.Conn

	// Owned by the goroutine that reads this side.
	raw    syscall.RawConn
	reader *frame.Reader
	take   func(fd uintptr) bool // made once: a new closure a read would be an allocation
	n      int
	err    error

	// Owned by its writer.
	put     func(fd uintptr) bool
	putting []byte
	putErr  error

	// Owned by the goroutine that reads this side.
	open bool // the session was open at its last batch

	// Guarded by the session's lock.
	out      outbox
	gone     bool // its reader has ended
	paused   bool // we don't read it, so its silence is our doing
	heard    bool // something was read since the last tick
	quietFor int  // ticks since something was read
	closing  bool // a link that is being closed: nothing more of it counts
}

// outbox is what waits to be written to a side. Guarded by the session's lock.
type outbox struct {
	pending []byte
	writing bool // somebody writes, and takes pending when he is done
	dead    bool // a write failed: nothing more is kept
	sent    bool // something was given to the writer since the last tick
	idleFor int  // ticks since something was given to the writer
	stalled int  // ticks that one write has lasted
	taken   int  // see session.takes
}

func newSide(name string, conn net.Conn) (*side, error) {
	sd := &side{name: name, link: -1, conn: conn, reader: frame.NewReader(buffers, frame.PreTuneMax)}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return sd, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	sd.raw = raw
	sd.take, sd.put = sd.takeReady, sd.putReady
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = tcp.SetNoDelay(true)
	}
	return sd, err
}

// fill reads what is there, and waits without a buffer while nothing is.
func (sd *side) fill() (int, error) {
	if sd.raw == nil {
		return sd.conn.Read(sd.reader.Space())
	}
	if err := sd.raw.Read(sd.take); err != nil {
		return 0, err
	}
	if sd.n == 0 && sd.err == nil {
		return 0, io.EOF
	}
	return sd.n, sd.err
}

// takeReady is called by the runtime when the socket may have something; false
// means that it had nothing.
func (sd *side) takeReady(fd uintptr) bool {
	for {
		n, err := syscall.Read(int(fd), sd.reader.Space())
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			sd.reader.Release()
			return false
		case nil:
			sd.n, sd.err = n, nil
		default:
			sd.n, sd.err = 0, err
		}
		return true
	}
}

// tryWrite writes what the socket takes at once, and gives the rest, copied.
func (sd *side) tryWrite(spans net.Buffers) (rest []byte, err error) {
	if sd.raw == nil {
		for _, s := range spans {
			rest = append(rest, s...)
		}
		return rest, nil
	}
	for i, s := range spans {
		sd.putting, sd.putErr = s, nil
		if err := sd.raw.Write(sd.put); err != nil {
			return nil, err
		}
		if sd.putErr != nil {
			return nil, sd.putErr
		}
		if len(sd.putting) > 0 {
			rest = append(rest, sd.putting...)
			for _, s := range spans[i+1:] {
				rest = append(rest, s...)
			}
			break
		}
	}
	sd.putting = nil
	return rest, nil
}

// putReady writes what the socket takes; it never waits.
func (sd *side) putReady(fd uintptr) bool {
	for len(sd.putting) > 0 {
		n, err := syscall.Write(int(fd), sd.putting)
		switch err {
		case syscall.EINTR:
			continue
		case nil:
			sd.putting = sd.putting[n:]
			continue
		case syscall.EAGAIN:
		default:
			sd.putErr = err
		}
		return true
	}
	return true
}

// discard reads and drops what still comes, for at most a while.
func (sd *side) discard(atMost time.Duration) {
	sd.conn.SetReadDeadline(time.Now().Add(atMost))
	io.Copy(io.Discard, sd.conn)
}

// closeWrite says that nothing more comes from us, and gives the peer until
// linger to end its side.
func (sd *side) closeWrite(linger time.Duration) {
	if tcp, ok := sd.conn.(interface{ CloseWrite() error }); ok {
		tcp.CloseWrite()
	}
	sd.conn.SetReadDeadline(time.Now().Add(linger))
}

// add takes bytes for the side. True: the caller has become the writer, and must
// write them and then call session.drain. Otherwise they are copied, and if spawn
// is true a writer has to be started for them.
func (o *outbox) add(b *intercept.Bytes, direct bool) (write, spawn bool) {
	if b.Len() == 0 || o.dead {
		return false, false
	}
	o.sent = true
	if !o.writing && direct {
		o.writing, o.stalled = true, 0
		return true, false
	}
	o.pending = b.AppendTo(o.pending)
	spawn = !o.writing
	o.writing = true
	return false, spawn
}
