package intercept

import "amqproxy/frame"

// Methods of a channel are answered in order. Where we answer one ourselves, or
// must know an answer of the broker's from others of its kind, everything asked
// before has to be answered first.

// forward sends a method to the broker and remembers that an answer is due.
func (c *Conn) forward(ch *channel, f frame.Frame, out *Out) {
	if asks(f.Method()) && !nowait(f) {
		ch.due++
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
	case frame.ChannelFlow, frame.AccessRequest,
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

// nowait reads the nowait bit of a client's method.
func nowait(f frame.Frame) bool {
	a := f.Args()
	switch f.Method() {
	case frame.ExchangeDeclare:
		a.Short()
		a.ShortStr()
		a.ShortStr()
		return a.Octet()&(1<<4) != 0
	case frame.ExchangeBind, frame.ExchangeUnbind, frame.QueueBind:
		a.Short()
		a.ShortStr()
		a.ShortStr()
		a.ShortStr()
		return a.Bit()
	case frame.ExchangeDelete:
		a.Short()
		a.ShortStr()
		return a.Octet()&(1<<1) != 0
	case frame.QueueDeclare:
		a.Short()
		a.ShortStr()
		return a.Octet()&(1<<4) != 0
	case frame.QueuePurge:
		a.Short()
		a.ShortStr()
		return a.Bit()
	case frame.QueueDelete:
		a.Short()
		a.ShortStr()
		return a.Octet()&(1<<2) != 0
	case frame.BasicConsume:
		a.Short()
		a.ShortStr()
		a.ShortStr()
		return a.Octet()&(1<<3) != 0
	case frame.BasicCancel:
		a.ShortStr()
		return a.Bit()
	case frame.ConfirmSelect:
		return a.Bit()
	}
	return false
}
