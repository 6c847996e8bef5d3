package intercept

import (
	"strconv"

	"amqproxy/frame"
)

// simContents puts contents together, as they go to a client.
type simContents struct {
	s        *sim
	what     string
	channels map[uint16]*simContent
}

type simContent struct {
	content
	tag  string // of the consumer; "" if it was got
	body []byte
}

// take gives the delivery when all of its message is there.
func (c *simContents) take(f frame.Frame) (d *simDelivery, tag string) {
	n := f.Channel()
	if n == 0 {
		return nil, ""
	}
	if c.channels == nil {
		c.channels = map[uint16]*simContent{}
	}
	k := c.channels[n]
	switch {
	case f.Type() == frame.TypeMethod && k != nil:
		c.s.fail("%s: %v between the frames of a message", c.what, f)
	case f.Type() == frame.TypeMethod:
		if m := f.Method(); m == frame.BasicDeliver || m == frame.BasicGetOk {
			k = &simContent{}
			k.begin()
			if a := f.Args(); m == frame.BasicDeliver {
				k.tag = string(a.ShortStr())
			}
			c.channels[n] = k
		}
		return nil, ""
	case k == nil || (f.Type() == frame.TypeHeader) != k.header:
		c.s.fail("%s: %v, which belongs to no message", c.what, f)
	}
	k.next(f)
	if f.Type() == frame.TypeBody {
		k.body = append(k.body, f.Payload()...)
	}
	if k.busy() {
		return nil, ""
	}
	delete(c.channels, n)
	serial, err := strconv.Atoi(string(k.body))
	if err != nil || serial >= len(c.s.deliveries) {
		c.s.fail("%s: a message that no broker has sent: %q", c.what, k.body)
	}
	return c.s.deliveries[serial], k.tag
}
