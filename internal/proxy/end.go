package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"

	"go.uber.org/zap"
)

// fault ends the session for an error in what a side sent.
func (se *session) fault(from *side, err error, out *intercept.Out) {
	var ce *frame.ConnError
	if !errors.As(err, &ce) || se.core == nil {
		return // before connection.open RabbitMQ says nothing to broken frames
	}
	if from.link >= 0 { // its reader tells the core
		return
	}
	if from == se.home {
		se.core.HomeDown(&frame.ConnError{Code: frame.ConnectionForced, Text: "the broker sent a broken frame: " + ce.Text}, out)
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
	defer se.partLinks()
	se.room.Broadcast()
	if err != nil {
		se.noteEnd(from, err)
		if isTimeout(err) && !se.handshake.homeDone {
			se.cutLocked(from.name, "") // its time is up, and with it the other side's
			return
		}
	}
	var out intercept.Out
	if from == se.home && se.core != nil {
		se.core.HomeDown(&frame.ConnError{Code: frame.ConnectionForced, Text: "the connection to the broker was lost"}, &out)
		se.commit(&out, nil, nil)
		se.core.EndBatch()
	}
	other := se.other(from)
	if other == nil || other.gone {
		return
	}
	for !se.over && !other.gone && !other.out.dead && (other.out.writing || from == se.client && se.core != nil && (se.waiting() > 0 || se.core.OnHold())) {
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
	for _, sd := range se.links {
		if sd != nil {
			sd.conn.Close()
		}
	}
	se.end()
	se.room.Broadcast()
}

// shut asks the session to end in order.
func (se *session) shut(why *frame.ConnError) {
	se.mu.Lock()
	defer se.mu.Unlock()
	if se.over {
		return
	}
	if se.core == nil {
		se.cutLocked("proxy", why.Text)
		return
	}
	var out intercept.Out
	se.core.Shut(why, &out)
	se.commit(&out, nil, nil)
}

// close ends what is left of the session, joins its goroutines and logs its end. The
// last of its readers calls it.
func (se *session) close() {
	se.linkReaders.Wait()
	se.cut("proxy", "ended")
	se.errands.Wait()
	var out intercept.Out
	if se.core != nil {
		se.core.End(&out)
		se.giveBack(&out)
	}
	se.server.log.Info("session ended", zap.Stringer("client", se.client.conn.RemoteAddr()), zap.String("by", se.endedBy), zap.String("why", se.why),
		zap.String("user", se.handshake.login.User), zap.String("vhost", se.handshake.vhost),
		zap.Duration("after", time.Since(se.started).Round(time.Millisecond)),
		zap.Uint64("bytes_in", se.bytes.fromClient), zap.Uint64("bytes_out", se.bytes.toClient))
	se.done()
}
