package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"
)

const (
	// highMark is how much may wait for a side that is slow to take it before
	// the other is not read any more.
	highMark = 256 << 10
	// hardMark is the same for one that new publishes avoid: others are still served.
	hardMark = 4 << 20
	// hoardMark is the same for messages that wait for their turn at a client.
	hoardMark = 16 << 20
	// heldMark is the same for frames that wait for an errand.
	heldMark = 64 << 10
	// lingerTime is how long a peer has to end its side when we have ended ours.
	lingerTime = 3 * time.Second
)

// session is one client connection, its home link, and its further links.
type session struct {
	server  *Server
	started time.Time
	errands sync.WaitGroup // errands and writers
	ctx     context.Context
	end     context.CancelFunc

	client *side
	home   *side   // nil until it is dialled
	links  []*side // the others, by the core's index; nil where there is none

	linkReaders sync.WaitGroup

	done      func()
	mu        sync.Mutex
	readers   int        // that have not ended; the last one closes the session
	room      *sync.Cond // something was written, answered or ended
	handshake handshake
	core      *intercept.Conn // nil before connection.open
	over      bool            // both sides were cut
	parting   bool            // the links are being closed, and no more are opened
	endedBy   string          // who ended it first
	why       string
	bytes     struct{ fromClient, toClient uint64 }
}

func newSession(s *Server, conn net.Conn) (*session, error) {
	client, err := newSide("client", conn)
	if err != nil {
		return nil, err
	}
	se := &session{server: s, client: client, started: time.Now()}
	se.room = sync.NewCond(&se.mu)
	se.ctx, se.end = context.WithCancel(context.Background())
	se.handshake = newHandshake(se)
	return se, nil
}

// run begins the session, which ends with the last of its readers. Then it calls done.
func (se *session) run(done func()) {
	se.done = done
	deadline := se.started.Add(se.server.cfg.HandshakeTimeout)
	se.client.conn.SetReadDeadline(deadline)
	if !se.greeted() {
		se.close()
		return
	}
	dialled := make(chan *side)
	se.errands.Go(func() { dialled <- se.connect(deadline) }) // which needs more stack than a reader keeps
	se.readers = 1
	if home := <-dialled; home != nil {
		se.readers = 2
		go se.read(home)
	}
	se.read(se.client)
}

// connect makes the home link; if the broker can't be reached the client is told,
// and it gives nil.
func (se *session) connect(deadline time.Time) *side {
	home, err := se.dial(deadline)
	if err != nil {
		se.note("broker", err.Error())
		se.handshake.refuse(&frame.ConnError{Code: frame.ConnectionForced,
			Text: fmt.Sprintf("broker %s can't be reached", se.server.cfg.Broker)})
		return nil
	}
	se.mu.Lock()
	defer se.mu.Unlock()
	se.home = home
	se.handshake.awaits = "broker"
	return home
}

// greeted reads the protocol header. RabbitMQ takes three old ones for the same
// protocol; to any other the answer is the one that we speak.
func (se *session) greeted() bool {
	for {
		n, err := se.client.fill()
		if err != nil {
			se.mu.Lock()
			defer se.mu.Unlock()
			se.noteEnd(se.client, err)
			return false
		}
		se.client.reader.Filled(n)
		header := se.client.reader.Take(len(frame.ProtocolHeader))
		if header == nil {
			continue
		}
		switch string(header) {
		case string(frame.ProtocolHeader), "AMQP\x01\x01\x00\x09", "AMQP\x01\x01\x08\x00", "AMQP\x01\x01\x09\x01":
			return true
		}
		se.note("client", fmt.Sprintf("unknown protocol header %q", header))
		se.client.conn.Write(frame.ProtocolHeader)
		return false
	}
}

func (se *session) dial(deadline time.Time) (*side, error) {
	ctx, cancel := context.WithDeadline(se.ctx, deadline)
	defer cancel()
	conn, err := se.server.dial(ctx, "tcp", se.server.cfg.Broker)
	if err != nil {
		return nil, err
	}
	home, err := newSide("broker", conn)
	if err == nil {
		conn.SetReadDeadline(deadline)
		_, err = conn.Write(frame.ProtocolHeader)
	}
	if err != nil {
		conn.Close()
	}
	return home, err
}

// read takes frames from a side until it ends. When the session is open it goes on in
// a goroutine with a fresh, small stack: most of its time it waits.
func (se *session) read(from *side) {
	moved := from.open
	for {
		done, err := se.takeBatch(from) // what came with the protocol header, at first
		if err != nil {
			from.reader.Drop()
			from.discard(lingerTime) // so that it can hear why before the socket closes
		}
		if from.open && !moved && !done && err == nil {
			go se.read(from)
			return
		}
		n := 0
		if !done && err == nil {
			n, err = from.fill()
		}
		if done || err != nil {
			from.reader.Drop()
			se.ended(from, err)
			se.readEnded()
			return
		}
		from.reader.Filled(n)
	}
}

// readEnded closes the session if no reader is left.
func (se *session) readEnded() {
	se.mu.Lock()
	se.readers--
	last := se.readers == 0
	se.mu.Unlock()
	if last {
		se.close()
	}
}

// outcome is what came of a batch, and the sides that its reader writes to itself.
type outcome struct {
	intercept.Out
	writes []*side
}

// outcomes lends them: a reader that waits needs none.
var outcomes = sync.Pool{New: func() any { return new(outcome) }}

func (se *session) takeBatch(from *side) (done bool, err error) {
	o := outcomes.Get().(*outcome)
	done, err = se.batch(from, o)
	o.Reset()
	clear(o.writes) // the pool must not keep a session alive
	outcomes.Put(o)
	return done, err
}

// batch takes all whole frames that were read and writes what comes of them.
func (se *session) batch(from *side, o *outcome) (done bool, err error) {
	out := &o.Out
	se.mu.Lock()
	from.heard = true
	held := from.reader.Buffered()
	if from == se.client {
		se.handshake.widen()
	}
	if se.core != nil {
		se.core.Use(se.server.node.Snapshot())
	}
	for err == nil {
		from.reader.Skip(se.messages(from, out))
		var f frame.Frame
		if f, err = from.reader.Next(); f == nil {
			break
		}
		if from.link >= 0 {
			if done, err = se.fromLink(from, f, out); done {
				break
			}
			continue
		}
		err = se.step(from, f, out)
	}
	if se.core != nil {
		se.core.EndBatch()
		if err == nil && from == se.client {
			err = se.core.Broken()
		}
	}
	if from == se.client {
		n := uint64(held - from.reader.Buffered())
		se.bytes.fromClient += n
		se.server.totals.FromBytes.Add(n)
	}
	if err != nil {
		se.fault(from, err, out)
	}
	from.open = se.handshake.homeDone
	several := len(se.links) > 0
	o.writes = se.commit(out, from, o.writes[:0])
	if from.link >= 0 || several { // it may be spared now, and the client read; or there is less hoarded
		se.room.Broadcast()
	}
	se.mu.Unlock()

	for _, to := range o.writes {
		spans := se.bytesFor(to, out).Spans()
		if several && to != se.client {
			se.push(to, spans)
		} else {
			se.write(to, spans)
		}
	}
	if err == nil && !done {
		err = se.wait(from)
	}
	return out.Done || done, err
}

// messages takes whole messages of a side at once, as far as they are plain, and
// tells how many octets they had.
func (se *session) messages(from *side, out *intercept.Out) int {
	switch {
	case !se.handshake.homeDone || se.core == nil:
		return 0
	case from.link >= 0 && se.links[from.link] == from && !se.parting:
		return se.core.RunFromLink(from.link, from.reader.Pending(), out)
	case from.link >= 0:
		return 0
	case from == se.client:
		return se.core.RunFromClient(from.reader.Pending(), out)
	}
	return se.core.RunFromHome(from.reader.Pending(), out)
}

// step takes one frame of a side: of the handshake, or of the session behind it.
func (se *session) step(from *side, f frame.Frame, out *intercept.Out) error {
	switch {
	case from == se.client && !se.handshake.clientDone:
		return se.handshake.fromClient(f, out)
	case from == se.client && se.handshake.mustWait():
		se.handshake.behind = append(se.handshake.behind, f...)
		return nil
	case from == se.client:
		return se.core.FromClient(f, out)
	case !se.handshake.homeDone:
		return se.handshake.fromHome(f, out)
	}
	return se.core.FromHome(f, out)
}

// other is whom a side has to do with: the client, or the client's broker.
func (se *session) other(sd *side) *side {
	if sd == se.client {
		return se.home
	}
	return se.client
}

// direct tells whether the reader of one side writes to another itself.
func (se *session) direct(from, to *side) bool {
	return from != nil && (from == se.client) != (to == se.client)
}

// sides calls yield with the client, the home link and the others, as far as they are
// there, with the lock held.
func (se *session) sides(yield func(*side) bool) {
	if !yield(se.client) || se.home != nil && !yield(se.home) {
		return
	}
	for _, sd := range se.links {
		if sd != nil && !yield(sd) {
			return
		}
	}
}

// seed gives every session other random choices.
func seed() uint64 { return rand.Uint64() }
