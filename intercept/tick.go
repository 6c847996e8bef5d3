package intercept

import "time"

// Tick tells the time, about twice a second, for what must not wait for ever.
func (c *Conn) Tick(now time.Time, out *Out) {
	before := c.now
	c.now = now
	c.forgive()
	c.leave(now, out)
	if c.phase == settling {
		if c.deadline.IsZero() {
			c.deadline = now.Add(settleTime)
		}
		if now.After(c.deadline) || !c.unconfirmed() {
			c.part(out)
		}
	}
	c.tickLinks(out)
	c.tickGroups(out)
	if c.failing+c.watching+c.waiting+c.ledgers+c.parked == 0 {
		return
	}
	for _, ch := range c.channels {
		if ch != nil && c.phase != parted {
			c.tickChannel(ch, before, out)
		}
	}
}

func (c *Conn) tickChannel(ch *channel, before time.Time, out *Out) {
	if ch.watch != nil && c.phase == running {
		c.leaveClosing(ch, out)
	}
	if ch.ledger != nil {
		for g := range ch.legs {
			c.suspects(ch, g, before, out)
		}
		c.retry(ch, out)
		c.tell(ch, out)
		ch.ledger.lapse(ch.parkedFor)
	}
	c.sendLater(ch, out)
	c.tickParked(ch, out)
	c.linkThere(ch, out)
	if !ch.waitsToClose() {
		return
	}
	if ch.deadline.IsZero() {
		ch.deadline = c.now.Add(settleTime)
	} else if c.now.After(ch.deadline) {
		c.closeSettled(ch, out)
	}
}
