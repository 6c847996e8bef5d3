package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"amqproxy/frame"
	"amqproxy/intercept"
	"amqproxy/shard"
)

const (
	// highMark is how much may wait for a side that is slow to take it before
	// the other is not read any more.
	highMark = 256 << 10
	// heldMark is the same for frames that wait for an errand.
	heldMark = 64 << 10
	// lingerTime is how long a peer has to end its side when we have ended ours.
	lingerTime = 3 * time.Second
)

// session is one client connection and its home link.
type session struct {
	server  *Server
	started time.Time
	log     *zap.Logger
	errands sync.WaitGroup // errands and writers
	ctx     context.Context
	end     context.CancelFunc

	client *side
	home   *side // nil until it is dialled

	mu        sync.Mutex
	room      *sync.Cond // something was written, answered or ended
	handshake handshake
	core      *intercept.Conn // nil before connection.open
	over      bool            // both sides were cut
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
	se.log = s.log.With(zap.Stringer("client", conn.RemoteAddr()))
	se.room = sync.NewCond(&se.mu)
	se.ctx, se.end = context.WithCancel(context.Background())
	se.handshake = newHandshake(se)
	return se, nil
}

// run is the session's life.
func (se *session) run() {
	defer se.close()
	deadline := se.started.Add(se.server.cfg.HandshakeTimeout)
	se.client.conn.SetReadDeadline(deadline)
	if !se.greeted() {
		return
	}
	var reading sync.WaitGroup
	if home, err := se.dial(deadline); err != nil {
		se.note("broker", err.Error())
		se.handshake.refuse(&frame.ConnError{Code: frame.ConnectionForced,
			Text: fmt.Sprintf("broker %s can't be reached", se.server.cfg.Broker)})
	} else {
		se.mu.Lock()
		se.home = home
		se.handshake.awaits = "broker"
		se.mu.Unlock()
		reading.Go(func() { se.read(home) })
	}
	se.read(se.client)
	reading.Wait()
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
	d := net.Dialer{Deadline: deadline}
	conn, err := d.DialContext(se.ctx, "tcp", se.server.cfg.Broker)
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

// read takes frames from a side until it ends.
func (se *session) read(from *side) {
	var out intercept.Out
	defer out.Reset()
	for {
		done, err := se.batch(from, &out) // what came with the protocol header, at first
		out.Reset()
		if err != nil {
			from.discard(lingerTime) // so that it can hear why before the socket closes
		}
		if done || err != nil {
			se.ended(from, err)
			return
		}
		n, err := from.fill()
		if err != nil {
			se.ended(from, err)
			return
		}
		from.reader.Filled(n)
	}
}

// batch takes all whole frames that were read and writes what comes of them.
func (se *session) batch(from *side, out *intercept.Out) (done bool, err error) {
	se.mu.Lock()
	from.heard = true
	held := from.reader.Buffered()
	if se.core != nil {
		se.core.Use(se.server.node.Snapshot())
	}
	for err == nil {
		var f frame.Frame
		if f, err = from.reader.Next(); f == nil {
			break
		}
		err = se.step(from, f, out)
	}
	if se.core != nil {
		se.core.EndBatch()
	}
	if from == se.client {
		n := uint64(held - from.reader.Buffered())
		se.bytes.fromClient += n
		se.server.totals.FromBytes.Add(n)
	}
	if err != nil {
		se.fault(from, err, out)
	}
	writes := se.commit(out, se.other(from))
	se.mu.Unlock()

	if writes != nil {
		se.write(writes, bytesFor(se, writes, out).Spans())
	}
	if err == nil {
		err = se.wait(from)
	}
	return out.Done, err
}

// step takes one frame of a side: of the handshake, or of the session behind it.
func (se *session) step(from *side, f frame.Frame, out *intercept.Out) error {
	switch {
	case from == se.client && !se.handshake.clientDone:
		return se.handshake.fromClient(f, out)
	case from == se.client:
		return se.core.FromClient(f, out)
	case !se.handshake.homeDone:
		return se.handshake.fromHome(f, out)
	}
	return se.core.FromHome(f, out)
}

func (se *session) other(sd *side) *side {
	if sd == se.client {
		return se.home
	}
	return se.client
}

func bytesFor(se *session, sd *side, out *intercept.Out) *intercept.Bytes {
	if sd == se.client {
		return &out.Client
	}
	return &out.Home
}

// commit puts what a batch made on its way, with the lock held. direct is the
// side that this goroutine may write to itself: it is returned when it is to.
func (se *session) commit(out *intercept.Out, direct *side) (writes *side) {
	for _, to := range []*side{se.client, se.home} {
		if to == nil {
			continue
		}
		b := bytesFor(se, to, out)
		if to == se.client {
			se.bytes.toClient += uint64(b.Len())
			se.server.totals.ToBytes.Add(uint64(b.Len()))
		}
		write, spawn := to.out.add(b, to == direct)
		if write {
			writes = to
		}
		if spawn {
			se.errands.Go(func() { se.drain(to) })
		}
	}
	for _, e := range out.Errands {
		se.errands.Go(func() { se.errand(e) })
	}
	se.giveBack(out)
	if se.core != nil {
		if f := se.core.Farewell(); f.By != "" {
			se.noteLocked(f.By, fmt.Sprintf("connection.close %d %s", f.Code, f.Text))
		}
	}
	if out.Secret != nil {
		se.handshake.login.Password = shard.Password(out.Secret)
	}
	return writes
}

// giveBack gives the node back what the session has no use for any more.
func (se *session) giveBack(out *intercept.Out) {
	for _, queue := range out.Released {
		se.server.node.Leave(se.handshake.vhost, queue)
	}
	for _, stream := range out.Abandoned {
		se.server.node.Abandon(shard.Name{VHost: se.handshake.vhost, Stream: stream})
	}
}

// write writes spans to a side whose writer the caller is, and then what came
// meanwhile.
func (se *session) write(to *side, spans net.Buffers) {
	var err error
	if len(spans) == 1 {
		_, err = to.conn.Write(spans[0])
	} else {
		_, err = spans.WriteTo(to.conn)
	}
	if err != nil {
		se.writeFailed(to)
	}
	se.drain(to)
}

// drain writes what waits for a side, as its writer, until nothing does.
func (se *session) drain(to *side) {
	se.mu.Lock()
	defer se.mu.Unlock()
	for len(to.out.pending) > 0 && !to.out.dead {
		b := to.out.pending
		to.out.pending, to.out.stalled = nil, 0
		se.mu.Unlock()
		_, err := to.conn.Write(b)
		if err != nil {
			se.writeFailed(to)
		}
		se.mu.Lock()
		se.room.Broadcast()
	}
	to.out.writing, to.out.stalled = false, 0
	se.room.Broadcast()
}

// writeFailed: nothing more can be said to the side, but what it sent before may
// still be there to be read.
func (se *session) writeFailed(to *side) {
	se.mu.Lock()
	defer se.mu.Unlock()
	to.out.dead, to.out.pending = true, nil
	to.conn.SetReadDeadline(time.Now().Add(lingerTime))
	se.room.Broadcast()
}

// wait holds the reader of a side back while what it reads could not go on.
func (se *session) wait(from *side) error {
	se.mu.Lock()
	defer se.mu.Unlock()
	for se.full(from) && !se.over {
		from.paused = true
		se.room.Wait()
	}
	from.paused = false
	if se.over {
		return net.ErrClosed
	}
	return nil
}

// full tells whether to stop reading a side. What waits for the broker never
// stops the reading of the broker: it might be waiting for that itself.
func (se *session) full(from *side) bool {
	if len(se.client.out.pending) > highMark {
		return true
	}
	return from == se.client && se.core != nil && (len(se.home.out.pending) > highMark || se.core.Held() > heldMark)
}

// fault ends the session for an error in what a side sent.
func (se *session) fault(from *side, err error, out *intercept.Out) {
	var ce *frame.ConnError
	if !errors.As(err, &ce) || se.core == nil {
		return // before connection.open RabbitMQ says nothing to broken frames
	}
	if from == se.home {
		se.core.LinkDown(&frame.ConnError{Code: frame.ConnectionForced, Text: "the broker sent a broken frame: " + ce.Text}, out)
		return
	}
	se.core.Fault(ce, out)
}

// ended says that a side will send nothing more, and lets the other one know
// when all is written.
func (se *session) ended(from *side, err error) {
	se.mu.Lock()
	defer se.mu.Unlock()
	from.gone = true
	if err != nil {
		se.noteEnd(from, err)
		if isTimeout(err) && !se.handshake.homeDone {
			se.cutLocked(from.name, "") // its time is up, and with it the other side's
			return
		}
	}
	var out intercept.Out
	if from == se.home && se.core != nil {
		se.core.LinkDown(&frame.ConnError{Code: frame.ConnectionForced, Text: "the connection to the broker was lost"}, &out)
		se.commit(&out, nil)
		se.core.EndBatch()
	}
	other := se.other(from)
	if other == nil || other.gone {
		return
	}
	for !se.over && !other.out.dead && (other.out.writing || from == se.client && se.core != nil && se.core.Held() > 0) {
		se.room.Wait()
	}
	if from == se.home && se.core != nil && !se.core.Orderly() {
		other.conn.SetReadDeadline(time.Now().Add(lingerTime)) // for its close-ok
		return
	}
	other.closeWrite(lingerTime)
}

// reason is a short text for the end of a socket.
func reason(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "closed the socket"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset the connection"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "timeout"
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// noteEnd keeps why a side ended. Before the session is open time is up for both
// sides at once: then it counts whose turn it was.
func (se *session) noteEnd(from *side, err error) {
	if isTimeout(err) && !se.handshake.homeDone {
		se.noteLocked(se.handshake.awaits, fmt.Sprintf("did not finish the handshake in %s", se.server.cfg.HandshakeTimeout))
		return
	}
	why := reason(err)
	if from == se.home && (se.core == nil || !se.core.Orderly()) {
		why = "the connection was lost: it " + why
	}
	se.noteLocked(from.name, why)
}

// note keeps the first reason for the session's end.
func (se *session) note(who, why string) {
	se.mu.Lock()
	defer se.mu.Unlock()
	se.noteLocked(who, why)
}

func (se *session) noteLocked(who, why string) {
	if se.endedBy == "" {
		se.endedBy, se.why = who, why
	}
}

// cut ends the session at once.
func (se *session) cut(who, why string) {
	se.mu.Lock()
	defer se.mu.Unlock()
	se.cutLocked(who, why)
}

func (se *session) cutLocked(who, why string) {
	se.noteLocked(who, why)
	se.over = true
	se.client.conn.Close()
	if se.home != nil {
		se.home.conn.Close()
	}
	se.end()
	se.room.Broadcast()
}

// shut asks the session to end in order.
func (se *session) shut(why *frame.ConnError) {
	se.mu.Lock()
	defer se.mu.Unlock()
	if se.core == nil {
		se.cutLocked("proxy", why.Text)
		return
	}
	var out intercept.Out
	se.core.Shut(why, &out)
	se.commit(&out, nil)
}

// close ends what is left of the session, joins its goroutines and logs its end.
func (se *session) close() {
	se.cut("proxy", "ended")
	se.errands.Wait()
	var out intercept.Out
	if se.core != nil {
		se.core.End(&out)
		se.giveBack(&out)
	}
	se.log.Info("session ended", zap.String("by", se.endedBy), zap.String("why", se.why),
		zap.String("user", se.handshake.login.User), zap.String("vhost", se.handshake.vhost),
		zap.Duration("after", time.Since(se.started).Round(time.Millisecond)),
		zap.Uint64("bytes_in", se.bytes.fromClient), zap.Uint64("bytes_out", se.bytes.toClient))
}

// seed gives every session other random choices.
func seed() uint64 { return rand.Uint64() }
