package fakebroker

import (
	"container/heap"
	"time"
)

// alarm is something that is done at a time, under the vhost's lock. It is never taken
// back: what it does looks first whether it is still to be done.
type alarm struct {
	at time.Time
	do func(now time.Time)
}

// alarms is a heap, the next one first.
type alarms []alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	(*a)[last] = alarm{}
	*a = (*a)[:last]
	return x
}

// at has something done at a time, or soon after.
func (v *vhost) at(t time.Time, do func(now time.Time)) {
	heap.Push(&v.alarms, alarm{t, do})
	if v.alarms[0].at.Equal(t) {
		select {
		case v.sooner <- struct{}{}:
		default:
		}
	}
}

// runClock does what is due, until done.
func (v *vhost) runClock(done <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-v.sooner:
		case <-timer.C:
		}
		timer.Reset(v.ring())
	}
}

// ring does what is due and tells how long it is to the next.
func (v *vhost) ring() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.alarms) > 0 {
		now := time.Now()
		if wait := v.alarms[0].at.Sub(now); wait > 0 {
			return wait
		}
		heap.Pop(&v.alarms).(alarm).do(now)
	}
	return time.Hour
}
