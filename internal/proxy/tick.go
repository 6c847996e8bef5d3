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
	se.core.Tick(now, &out)
	se.core.EndBatch()
	se.commit(&out, nil)
	beat := se.handshake.heartbeat
	for _, sd := range []*side{se.client, se.home} {
		if se.other(sd).out.stalled > 0 {
			sd.heard = true // its reader may be the one that writes, and can't hear it
		}
		why := sd.lapse(beat)
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
	for _, sd := range []*side{se.client, se.home} {
		if sd.needsHeartbeat(beat) {
			se.send(sd, frame.Heartbeat)
		}
	}
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
