package proxy

import (
	"fmt"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"
)

// tick looks after time: the core's own clock, heartbeats, and peers that stall.
func (se *session) tick(now time.Time) {
	se.mu.Lock()
	defer se.mu.Unlock()
	if se.over || se.core == nil {
		return // the handshake has deadlines of its own
	}
	var out intercept.Out
	se.core.Use(se.server.node.Snapshot())
	for sd := range se.sides {
		if sd != se.client {
			se.core.Stuck(sd.link, sd.out.stalled > 1)
		}
	}
	se.core.Tick(now, &out)
	se.core.EndBatch()
	se.commit(&out, nil, nil)
	defer se.room.Broadcast() // what keeps the client from being read may be spared now
	for sd := range se.sides {
		if se.other(sd).out.stalled > 0 {
			sd.heard = true // its reader may be the one that writes, and can't hear it
		}
		why := sd.lapse(se.beatOf(sd))
		if sd.link >= 0 {
			if why != "" { // its reader tells the core
				sd.conn.Close()
			}
			continue
		}
		// A broker that is blocked by an alarm may not read for any time, and says
		// so to some clients only: its heartbeats tell whether it lives.
		if timeout := se.server.cfg.WriteTimeout; sd == se.client && sd.out.lasts() > timeout {
			why = fmt.Sprintf("took nothing for %s (write-timeout)", timeout)
		}
		if why != "" {
			se.cutLocked(sd.name, why)
			return
		}
	}
	for sd := range se.sides {
		if sd.needsHeartbeat(se.beatOf(sd)) {
			se.send(sd, frame.Heartbeat)
		}
	}
}

// beatOf is the heartbeat interval that was agreed on with a side, in seconds.
func (se *session) beatOf(sd *side) uint16 {
	if sd.link >= 0 {
		return se.server.beat()
	}
	return se.handshake.heartbeat
}

// lapse counts a tick of silence and of a write that lasts; it says why the side
// has to be given up, if so.
func (sd *side) lapse(heartbeat uint16) string {
	if sd.quietFor++; sd.heard || sd.paused || sd.gone {
		sd.quietFor, sd.heard = 0, false
	}
	if sd.out.idleFor++; sd.out.sent {
		sd.out.idleFor, sd.out.sent = 0, false
	}
	if sd.out.stalled++; !sd.out.writing {
		sd.out.stalled = 0
	}
	// A peer is given up when it was silent for two intervals (section 4.2.7),
	// and the tick in which it fell silent does not count.
	if heartbeat > 0 && sd.quietFor > 2*ticksPerSecond*int(heartbeat)+1 {
		return fmt.Sprintf("missed heartbeats, timeout: %ds", heartbeat)
	}
	return ""
}

// lasts is how long one write has lasted.
func (o *outbox) lasts() time.Duration {
	return time.Duration(o.stalled) * time.Second / ticksPerSecond
}

// needsHeartbeat tells whether nothing went to the side for half an interval.
func (sd *side) needsHeartbeat(heartbeat uint16) bool {
	return heartbeat > 0 && !sd.out.writing && !sd.gone && sd.out.idleFor >= ticksPerSecond*int(heartbeat)/2
}

// send gives a side bytes of ours, with the lock held.
func (se *session) send(to *side, b []byte) {
	if to.out.dead {
		return
	}
	to.out.pending = append(to.out.pending, b...)
	to.out.sent = true
	if !to.out.writing {
		to.out.writing = true
		se.errands.Go(func() { se.drain(to) })
	}
}
