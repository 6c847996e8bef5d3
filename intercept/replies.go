package intercept

import "amqproxy/frame"

// Methods of a channel are answered in order. Where we answer one ourselves, or
// must know an answer of the broker's from others of its kind, everything asked
// before has to be answered first.

// forward sends a method to the broker and remembers that an answer is due.
func (c *Conn) forward(ch *channel, f frame.Frame, out *Out) {
	if m := f.Method(); asks(m) {
		if !nowait(f) {
			ch.due++
		}
		if m == frame.BasicConsume || m == frame.BasicGet {
			ch.quiet.asks(f, ch.feed != nil)
		}
	}
	out.Home.view(f)
}

// awaitReplies holds the channel, if answers are due, and has f taken again when
// they are here.
func (c *Conn) awaitReplies(ch *channel, f frame.Frame) bool {
	if ch.due == 0 {
		return false
	}
	ch.wait = wait{what: waitReplies, frame: append(frame.Frame(nil), f...)}
	return true
}

// replied counts the broker's answers. Call it when the answer has gone down.
func (c *Conn) replied(ch *channel, m frame.Method, out *Out) {
	if ch.due == 0 || !answers(m) {
		return
	}
	ch.before = max(ch.before-1, 0)
	if ch.due--; ch.due > 0 || ch.wait.what != waitReplies {
		return
	}
	f := ch.wait.frame
	ch.wait = wait{}
	c.clientMethod(ch, f, out)
	c.resume(ch, out)
}

// asks tells whether a method has an answer, unless it is sent with nowait.
func asks(m frame.Method) bool {
	switch m {
	case frame.ChannelOpen, frame.ChannelFlow, frame.AccessRequest,
		frame.ExchangeDeclare, frame.ExchangeDelete, frame.ExchangeBind, frame.ExchangeUnbind,
		frame.QueueDeclare, frame.QueueBind, frame.QueuePurge, frame.QueueDelete, frame.QueueUnbind,
		frame.BasicQos, frame.BasicConsume, frame.BasicCancel, frame.BasicGet, frame.BasicRecover,
		frame.ConfirmSelect, frame.TxSelect, frame.TxCommit, frame.TxRollback:
		return true
	}
	return false
}

// answers tells whether a method of the broker's answers one of the client's.
// Every answer has the id behind its question's, but for these two.
func answers(m frame.Method) bool {
	return asks(m-1) || m == frame.BasicGetEmpty || m == frame.ExchangeUnbindOk
}

// layout is what arguments a method of a client's has, if we look into it: s short,
// S short string, o octet of bits, T table; and which of the bits is nowait.
func layout(m frame.Method) (fields string, nowait byte) {
	switch m {
	case frame.ExchangeDeclare:
		return "sSSoT", 1 << 4
	case frame.ExchangeBind, frame.ExchangeUnbind, frame.QueueBind:
		return "sSSSoT", 1
	case frame.ExchangeDelete:
		return "sSo", 1 << 1
	case frame.QueueDeclare:
		return "sSoT", 1 << 4
	case frame.QueueUnbind:
		return "sSSST", 0
	case frame.QueuePurge:
		return "sSo", 1
	case frame.QueueDelete:
		return "sSo", 1 << 2
	case frame.BasicConsume:
		return "sSSoT", 1 << 3
	case frame.BasicCancel:
		return "So", 1
	case frame.BasicGet:
		return "sSo", 0
	case frame.ConfirmSelect:
		return "o", 1
	}
	return "", 0
}

// readable tells whether all arguments of a method are there; we act on no other.
func readable(f frame.Frame) bool {
	_, ok := bitsOf(f)
	return ok
}

// nowait reads the nowait bit of a client's method.
func nowait(f frame.Frame) bool {
	_, mask := layout(f.Method())
	bits, _ := bitsOf(f)
	return bits&mask != 0
}

func bitsOf(f frame.Frame) (bits byte, ok bool) {
	fields, _ := layout(f.Method())
	a := f.Args()
	for i := range len(fields) {
		switch fields[i] {
		case 's':
			a.Short()
		case 'S':
			a.ShortStr()
		case 'o':
			bits = a.Octet()
		case 'T':
			a.Table()
		}
	}
	return bits, a.OK()
}
