package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"
	"amqproxy/shard"

	"go.uber.org/zap"
)

// beat is the heartbeat interval of links, in seconds: when a proxy is frozen a broker gives
// the shards that it reads to others after two to three of these.
func (s *Server) beat() uint16 { return uint16(max(1, s.cfg.LinkHeartbeat.Seconds())) }

// open opens a link and tells the core what came of it.
func (se *session) open(d intercept.Dial) {
	sd, channelMax, why, err := se.link(d)
	se.mu.Lock()
	defer se.mu.Unlock()
	if err == nil && (se.over || se.parting || d.Link < len(se.links) && se.links[d.Link] != nil) {
		sd.conn.Close()
		se.server.totals.Links.Add(-1)
		return
	}
	var out intercept.Out
	se.core.Use(se.server.node.Snapshot())
	if err != nil {
		level := zap.WarnLevel
		if d.Again { // it was told
			level = zap.DebugLevel
		}
		se.server.log.Log(level, "a link to a broker could not be opened", zap.String("node", d.Node), zap.String("address", d.Address), zap.Error(err))
		se.core.LinkDown(d.Link, why, err.Error(), &out)
	} else {
		for len(se.links) <= d.Link {
			se.links = append(se.links, nil)
		}
		se.links[d.Link] = sd
		se.linkReaders.Go(func() { se.readLink(sd) })
		se.core.LinkUp(d.Link, channelMax, &out)
	}
	se.core.EndBatch()
	se.commit(&out, nil, nil)
	out.Reset()
	se.room.Broadcast()
}

// link dials a broker and logs in. It is counted until its reader has ended.
func (se *session) link(d intercept.Dial) (sd *side, channelMax uint16, why intercept.Down, err error) {
	cfg, links := &se.server.cfg, &se.server.totals.Links
	if n := links.Add(1); cfg.MaxLinks > 0 && n > int64(cfg.MaxLinks) {
		links.Add(-1)
		return nil, 0, intercept.Failed, fmt.Errorf("the proxy has %d links to other brokers already (max-links)", cfg.MaxLinks)
	}
	defer func() {
		if err != nil {
			links.Add(-1)
		}
	}()
	deadline := time.Now().Add(cfg.StallTimeout)
	ctx, cancel := context.WithDeadline(se.ctx, deadline)
	defer cancel()
	conn, err := se.server.dial(ctx, "tcp", cmp.Or(d.Address, cfg.Broker))
	if err != nil {
		return nil, 0, intercept.Failed, fmt.Errorf("the broker of node '%s' can't be reached: %w", d.Node, err)
	}
	sd, err = newSide("broker of "+d.Node, conn)
	if err == nil {
		sd.link = d.Link
		conn.SetDeadline(deadline)
		channelMax, err = se.logIn(sd, d)
		conn.SetDeadline(time.Time{})
	}
	if err == nil {
		return sd, channelMax, 0, nil
	}
	conn.Close()
	switch why = intercept.Failed; {
	case errors.As(err, new(notLetIn)):
		why = intercept.Refused
	case isTimeout(err):
		why = intercept.Stalled
	}
	return nil, 0, why, fmt.Errorf("the broker of node '%s': %w", d.Node, err)
}

// logIn does a client's part of the handshake.
func (se *session) logIn(sd *side, d intercept.Dial) (channelMax uint16, err error) {
	se.mu.Lock()
	login, vhost, frameMax := se.handshake.login, se.handshake.vhost, se.handshake.frameMax
	se.mu.Unlock()
	if d.As.User != "" {
		login = d.As
	}
	sd.conn.Write(frame.ProtocolHeader) // a failure shows at the next read
	if _, err := sd.expect(frame.ConnectionStart); err != nil {
		return 0, err
	}
	sd.conn.Write(se.startOk(login))
	f, err := sd.expect(frame.ConnectionTune)
	if err != nil {
		return 0, err
	}
	a := f.Args()
	channelMax, max := a.Short(), a.Long()
	if max > 0 && max < frameMax {
		return 0, notLetIn(fmt.Sprintf("its frame_max of %d is less than the client's %d", max, frameMax))
	}
	b := frame.Build(nil, 0, frame.ConnectionTuneOk).Short(channelMax).Long(frameMax).Short(se.server.beat()).End()
	sd.conn.Write(frame.Build(b, 0, frame.ConnectionOpen).ShortStr(vhost).ShortStr("").Octet(0).End())
	sd.reader.SetMax(int(frameMax))
	_, err = sd.expect(frame.ConnectionOpenOk)
	return channelMax, err
}

func (se *session) startOk(login shard.Login) []byte {
	caps := frame.Table{}
	for _, name := range []string{"publisher_confirms", "basic.nack", "connection.blocked", "consumer_cancel_notify", "authentication_failure_close"} {
		caps = caps.AppendFlag(name, true)
	}
	props := frame.Table{}.AppendString("product", "amqproxy").
		AppendString("connection_name", fmt.Sprintf("amqproxy for %s", se.client.conn.RemoteAddr())).
		AppendTable("capabilities", caps)
	return frame.Build(nil, 0, frame.ConnectionStartOk).Table(props).ShortStr("PLAIN").
		LongStr("\x00" + login.User + "\x00" + string(login.Password)).ShortStr("en_US").End()
}

// notLetIn is why a broker does not let us in, or we can't use it as it is.
type notLetIn string

func (e notLetIn) Error() string { return string(e) }

// expect waits for a method of the handshake. The frame holds until the next read.
func (sd *side) expect(m frame.Method) (frame.Frame, error) {
	for {
		f, err := sd.reader.Next()
		switch {
		case err != nil:
			return nil, err
		case f == nil:
			n, err := sd.fill()
			if err != nil {
				return nil, fmt.Errorf("%s was not answered: %s: %w", m, reason(err), err)
			}
			sd.reader.Filled(n)
		case f.Type() == frame.TypeHeartbeat:
		case f.Type() == frame.TypeMethod && f.Method() == m:
			return f, nil
		case f.Type() == frame.TypeMethod && f.Method() == frame.ConnectionClose:
			a := f.Args()
			a.Short()
			return nil, notLetIn(strings.ToValidUTF8(string(a.ShortStr()), "?"))
		default:
			return nil, fmt.Errorf("%s where %s was expected", f, m)
		}
	}
}

// readLink takes frames from a link until it ends.
func (se *session) readLink(sd *side) {
	defer se.server.totals.Links.Add(-1)
	defer sd.conn.Close()
	for {
		done, err := se.takeBatch(sd)
		n := 0
		if !done && err == nil {
			n, err = sd.fill()
		}
		if done || err != nil {
			sd.reader.Drop()
			se.linkEnded(sd, err)
			return
		}
		sd.reader.Filled(n)
	}
}

// linkEnded tells the core that a link is lost, unless it was ours to end.
func (se *session) linkEnded(sd *side, err error) {
	se.mu.Lock()
	defer se.mu.Unlock()
	sd.gone = true
	sd.out.dead, sd.out.pending = true, nil
	se.room.Broadcast()
	if se.parting && se.links[sd.link] == sd {
		var out intercept.Out
		se.core.LinkGone(sd.link, &out)
		se.giveBack(&out)
		return
	}
	if se.over || se.parting || se.links[sd.link] != sd {
		return
	}
	why := "it closed the connection"
	if err != nil {
		why = reason(err)
	}
	se.server.log.Warn("a link to a broker was lost", zap.String("link", sd.name), zap.String("why", why))
	se.links[sd.link] = nil
	var out intercept.Out
	se.core.Use(se.server.node.Snapshot())
	se.core.LinkDown(sd.link, intercept.Lost, sd.name+": "+why, &out)
	se.core.EndBatch()
	se.commit(&out, nil, nil)
	out.Reset()
}

// fromLink takes a frame of a link. done: the link has come to its end.
func (se *session) fromLink(sd *side, f frame.Frame, out *intercept.Out) (done bool, err error) {
	if f.Type() == frame.TypeMethod && f.Channel() == 0 {
		switch f.Method() {
		case frame.ConnectionClose:
			a := f.Args()
			a.Short()
			why := string(a.ShortStr())
			se.server.log.Warn("a broker has closed a link", zap.String("link", sd.name), zap.String("why", why))
			se.send(sd, frame.Build(nil, 0, frame.ConnectionCloseOk).End())
			sd.conn.SetReadDeadline(time.Now().Add(lingerTime)) // it closes the socket now
			if se.links[sd.link] == sd {
				se.links[sd.link] = nil
				se.core.LinkDown(sd.link, intercept.Lost, sd.name+": "+why, out)
			}
			return false, nil
		case frame.ConnectionCloseOk:
			return true, nil
		}
	}
	if sd.closing || se.links[sd.link] != sd {
		return false, nil
	}
	if f.Type() == frame.TypeMethod && f.Method() == frame.ChannelClose {
		a := f.Args()
		a.Short()
		se.server.log.Info("a broker has closed a channel of a link", zap.String("link", sd.name), zap.String("why", string(a.ShortStr())))
	}
	return false, se.core.FromLink(sd.link, f, out)
}

// dropLink ends a link in order, with the lock held. Its reader waits for close-ok.
func (se *session) dropLink(i int) {
	sd := se.links[i]
	if sd == nil {
		return
	}
	se.links[i] = nil
	se.partLink(sd)
}

func (se *session) partLink(sd *side) {
	sd.closing = true
	se.send(sd, frame.AppendConnClose(nil, &frame.ConnError{Code: frame.ReplySuccess, Text: "Goodbye"}))
	sd.conn.SetReadDeadline(time.Now().Add(lingerTime))
}

// partLinks ends all links, with the lock held: the session is over.
func (se *session) partLinks() {
	if se.parting {
		return
	}
	se.parting = true
	for _, sd := range se.links {
		if sd != nil {
			se.partLink(sd)
		}
	}
}

// push gives a side what it takes at once, and leaves the rest to a writer: a broker that
// takes nothing must not hold up what is for the others. The caller is its writer.
func (se *session) push(to *side, spans net.Buffers) {
	rest, err := to.tryWrite(spans)
	if err != nil {
		se.writeFailed(to)
	}
	se.mu.Lock()
	defer se.mu.Unlock()
	if !to.out.dead && (len(rest) > 0 || len(to.out.pending) > 0) {
		to.out.pending = append(rest, to.out.pending...)
		se.errands.Go(func() { se.drain(to) })
		return
	}
	to.out.writing, to.out.stalled = false, 0
}
