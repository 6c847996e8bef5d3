package proxy

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"
	"amqproxy/shard"
)

// handshake relays the opening of a connection between client and broker, in
// both directions at once, and remembers what the session needs to know:
//
//	from broker      from client      what is done here
//	start                             forwarded
//	                 start-ok         user and password read; loopback users refused
//	secure           secure-ok        forwarded, as often as the mechanism wants
//	tune                              frame_max lowered to ours
//	                 tune-ok          frame_max and heartbeat read
//	                 open             vhost read; from here on the core takes the client's frames
//	open-ok                           from here on the core takes the broker's frames
//	close            close            forwarded, with their close-ok
//
// SASL is between client and broker: nothing is decided here, and a mechanism
// that this file does not know works all the same. All fields are guarded by the
// session's lock.
type handshake struct {
	session *session

	clientDone, homeDone bool
	tuned, chosen, wide  bool             // the broker has sent tune, which it does when it knows the client; the client tune-ok; see widen
	refusal              *frame.ConnError // the broker can't be reached: the client is told when it can hear it

	awaits    string // the side whose turn it is
	behind    []byte // whole client frames behind connection.open, until open-ok
	mechanism string
	login     shard.Login // what PLAIN and AMQPLAIN carry; zero for other mechanisms
	hearsFail bool        // the client has the capability authentication_failure_close
	hearsEnd  bool        // and consumer_cancel_notify
	frameMax  uint32
	channels  uint16 // channel_max
	heartbeat uint16 // seconds
	vhost     string
}

func newHandshake(se *session) handshake {
	return handshake{session: se, awaits: "client", frameMax: se.server.cfg.FrameMax}
}

// refuse greets the client in the broker's place, for a client can't take a
// close before it was greeted.
func (h *handshake) refuse(why *frame.ConnError) {
	se := h.session
	se.mu.Lock()
	defer se.mu.Unlock()
	h.refusal = why
	caps := frame.Table{}.AppendFlag("authentication_failure_close", true)
	props := frame.Table{}.AppendString("product", "amqproxy").AppendTable("capabilities", caps)
	b := frame.Build(nil, 0, frame.ConnectionStart).Octet(0).Octet(9).Table(props).LongStr("AMQPLAIN PLAIN").LongStr("en_US").End()
	se.send(se.client, b)
}

// fromClient takes a frame of a client that has not sent connection.open yet.
func (h *handshake) fromClient(f frame.Frame, out *intercept.Out) error {
	if f.Type() == frame.TypeHeartbeat {
		return nil
	}
	if f.Type() != frame.TypeMethod || f.Channel() != 0 {
		return &frame.ConnError{Code: frame.CommandInvalid, Text: "frame before connection.open"}
	}
	if h.refusal != nil {
		h.refuseClient(f, out)
		return nil
	}
	a := f.Args()
	h.awaits = "broker"
	switch f.Method() {
	case frame.ConnectionStartOk:
		h.startOk(a)
		if h.loopbackOnly() {
			return h.refuseLogin(out)
		}
	case frame.ConnectionTuneOk:
		h.awaits = "client"
		if err := h.tuneOk(a); err != nil {
			return err
		}
	case frame.ConnectionOpen:
		h.vhost = string(a.ShortStr())
		h.open()
	case frame.ConnectionCloseOk:
		out.Done = true
	}
	out.TellHome(f)
	return nil
}

// refuseClient answers a client that has no broker: it is told why as soon as it
// can hear it.
func (h *handshake) refuseClient(f frame.Frame, out *intercept.Out) {
	switch f.Method() {
	case frame.ConnectionStartOk:
		out.TellClient(frame.AppendConnClose(nil, h.refusal))
	case frame.ConnectionCloseOk:
		out.Done = true
	}
}

func (h *handshake) startOk(a frame.Args) {
	props := a.Table()
	h.mechanism = string(a.ShortStr())
	response := a.LongStr()
	if caps, found, _ := props.Find("capabilities"); found && caps.Type == 'F' {
		h.hearsFail = capable(caps, "authentication_failure_close")
		h.hearsEnd = capable(caps, "consumer_cancel_notify")
	}
	switch h.mechanism {
	case "PLAIN":
		if parts := bytes.SplitN(response, []byte{0}, 3); len(parts) == 3 {
			h.login = shard.Login{User: string(parts[1]), Password: shard.Password(parts[2])}
		}
	case "AMQPLAIN":
		user, _, _ := frame.Table(response).Find("LOGIN")
		password, _, _ := frame.Table(response).Find("PASSWORD")
		h.login = shard.Login{User: string(user.Value), Password: shard.Password(password.Value)}
	}
}

func capable(capabilities frame.Field, name string) bool {
	on, _, _ := frame.Table(capabilities.Value).Find(name)
	return on.Type == 't' && on.Value[0] != 0
}

// loopbackOnly tells whether a user that the broker takes from its own machine
// only comes from elsewhere: to the broker, all clients of the proxy look local.
func (h *handshake) loopbackOnly() bool {
	addr, ok := h.session.client.conn.RemoteAddr().(*net.TCPAddr)
	return ok && !addr.IP.IsLoopback() && slices.Contains(h.session.server.cfg.LoopbackUsers, h.login.User)
}

// refuseLogin answers as RabbitMQ does.
func (h *handshake) refuseLogin(out *intercept.Out) error {
	e := &frame.ConnError{Code: frame.AccessRefused, Text: fmt.Sprintf(
		"Login was refused using authentication mechanism %s. For details see the broker logfile.", h.mechanism)}
	if h.hearsFail {
		out.TellClient(frame.AppendConnClose(nil, e))
	}
	h.session.noteLocked("proxy", fmt.Sprintf("user '%s' can only connect via localhost", h.login.User))
	return e
}

// tuneOk takes what the client has chosen. More than it was offered is refused, as
// the broker would if the offer had been its own.
func (h *handshake) tuneOk(a frame.Args) error {
	h.channels = a.Short()
	max := a.Long()
	if max > 0 && max < frame.MinMax {
		h.session.noteLocked("client", fmt.Sprintf("wants frame_max %d, the least is %d", max, frame.MinMax))
		return &frame.ConnError{Code: frame.NotAllowed, Text: "frame_max is too small"}
	}
	if max > h.frameMax {
		h.session.noteLocked("client", fmt.Sprintf("wants frame_max %d, the most is %d", max, h.frameMax))
		return &frame.ConnError{Code: frame.NotAllowed, Text: "frame_max is too large"}
	}
	if max != 0 {
		h.frameMax = max
	}
	h.heartbeat = a.Short()
	h.chosen = true
	h.widen()
	return nil
}

// widen lets the client's frames be as large as was agreed on, once the broker knows
// who it is: one that chooses before it was offered anything gains nothing by it.
// The client's reader calls it.
func (h *handshake) widen() {
	if h.chosen && h.tuned && !h.wide {
		h.session.client.reader.SetMax(int(h.frameMax))
		h.wide = true
	}
}

// open begins the session proper on the client's side: what it sends behind
// connection.open may come in the same packet.
func (h *handshake) open() {
	se := h.session
	h.clientDone = true
	limits := &se.server.cfg
	cfg := intercept.Config{VHost: h.vhost, FrameMax: int(h.frameMax), ChannelMax: h.channels, HearsCancel: h.hearsEnd, Seed: seed(),
		KnowsLogin: h.login.User != "", MaxLinks: limits.LinksEach, StallTimeout: limits.StallTimeout,
		ConfirmTimeout: limits.ConfirmTimeout, WaitTimeout: limits.WaitTimeout, HandoverTimeout: limits.HandoverTime}
	se.core = intercept.New(cfg, se.server.node.Snapshot(), &se.server.totals.Messages)
}

// mustWait tells whether a client's frame is to wait for open-ok. Until then nobody
// knows who the client is, and nothing is done for it; but a close is answered.
func (h *handshake) mustWait() bool {
	return !h.homeDone && h.session.core.Farewell().By == ""
}

// opened lets the frames go on that came behind connection.open.
func (h *handshake) opened(out *intercept.Out) error {
	rest := h.behind
	h.behind = nil
	h.session.room.Broadcast()
	for len(rest) > 0 {
		f := frame.First(rest)
		rest = rest[len(f):]
		if err := h.session.core.FromClient(f, out); err != nil {
			return err
		}
	}
	return nil
}

// expects tells whether a broker may send f before the connection is open.
func (h *handshake) expects(f frame.Frame) bool {
	if f.Type() != frame.TypeMethod || f.Channel() != 0 {
		return false
	}
	switch f.Method() {
	case frame.ConnectionStart, frame.ConnectionSecure, frame.ConnectionTune, frame.ConnectionClose, frame.ConnectionCloseOk:
		return true
	case frame.ConnectionOpenOk:
		return h.clientDone // it answers connection.open
	}
	return false
}

// fromHome takes a frame of a broker that has not sent connection.open-ok yet.
func (h *handshake) fromHome(f frame.Frame, out *intercept.Out) error {
	se := h.session
	if f.Type() == frame.TypeHeartbeat {
		return nil
	}
	if !h.expects(f) {
		return &frame.ConnError{Code: frame.CommandInvalid, Text: "frame that does not belong to the handshake"}
	}
	h.awaits = "client"
	switch f.Method() {
	case frame.ConnectionTune:
		a := f.Args()
		channels, max, beat := a.Short(), a.Long(), a.Short()
		if max > 0 && max < frame.MinMax {
			return &frame.ConnError{Code: frame.NotAllowed, Text: fmt.Sprintf("frame_max of %d is under %d", max, frame.MinMax)}
		}
		h.tuned = true
		if max == 0 || max > h.frameMax {
			max = h.frameMax
		}
		out.TellClient(frame.Build(nil, 0, frame.ConnectionTune).Short(channels).Long(max).Short(beat).End())
		return nil
	case frame.ConnectionOpenOk:
		h.homeDone = true
		se.home.reader.SetMax(int(h.frameMax))
		se.client.conn.SetReadDeadline(time.Time{})
		se.home.conn.SetReadDeadline(time.Time{})
		if err := se.core.FromHome(f, out); err != nil {
			return err
		}
		return h.opened(out)
	}
	if se.core != nil {
		return se.core.FromHome(f, out)
	}
	if f.Method() == frame.ConnectionClose {
		a := f.Args()
		se.noteLocked("broker", fmt.Sprintf("connection.close %d %s", a.Short(), a.ShortStr()))
	}
	out.TellClient(f)
	return nil
}
