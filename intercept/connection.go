package intercept

import (
	"time"

	"amqproxy/frame"
)

// connectionFromClient takes a frame on channel 0.
func (c *Conn) connectionFromClient(f frame.Frame, out *Out) {
	switch f.Method() {
	case frame.ConnectionClose:
		c.closedBy("client", f)
		c.proveAll(out)
		if c.unsettled() { // see clientCloses
			c.leaving = append(frame.Frame(nil), f...)
			c.deadline = time.Time{}
			return
		}
	case frame.ConnectionCloseOk:
		c.ordered = true
		out.Done = true
	case frame.ConnectionUpdateSecret:
		a := f.Args()
		c.secret = append([]byte(nil), a.LongStr()...)
	}
	out.Home.view(f)
}

// connectionFromHome takes a frame on channel 0 of the home link.
func (c *Conn) connectionFromHome(f frame.Frame, out *Out) {
	switch f.Method() {
	case frame.ConnectionCloseOk:
		if c.phase != running {
			return // the answer to ours
		}
		c.ordered = true
		out.Done = true
	case frame.ConnectionBlocked:
		c.home.blocked = true
	case frame.ConnectionUnblocked:
		c.home.blocked = false
		c.linkNews(out)
	case frame.ConnectionUpdateSecretOk:
		out.Secret, c.secret = c.secret, nil
	case frame.ConnectionClose:
		c.closedBy("broker", f)
		if c.phase != running {
			out.Home.built(out.Home.build(0, frame.ConnectionCloseOk))
			return
		}
	}
	if c.phase != parted {
		out.Client.view(f)
	}
}
