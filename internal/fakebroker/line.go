package fakebroker

import (
	"slices"
	"time"
)

// entry is a message in a queue.
type entry struct {
	*message
	seq         uint64 // its place among those that were pushed
	rank        int    // its priority, as far as the queue has such
	until       time.Time
	redelivered bool
}

// before tells which of two entries is delivered first.
func (e *entry) before(o *entry) bool {
	return e.rank > o.rank || e.rank == o.rank && e.seq < o.seq
}

// line are the entries that are ready for delivery, in their order. Entries that were
// delivered and come back find their places again.
type line struct {
	entries []*entry
	head    int // entries[head:] are in the line
	bytes   int // of their bodies
}

func (l *line) len() int { return len(l.entries) - l.head }

// first is the one that is delivered next.
func (l *line) first() *entry { return l.entries[l.head] }

// pop takes the first.
func (l *line) pop() *entry {
	e := l.entries[l.head]
	l.entries[l.head] = nil
	l.head++
	l.bytes -= len(e.body)
	if l.head > 64 && l.head > len(l.entries)/2 {
		l.entries, l.head = slices.Delete(l.entries, 0, l.head), 0
	}
	return e
}

// insert puts an entry at its place, which mostly is the end or the front.
func (l *line) insert(e *entry) {
	l.bytes += len(e.body)
	n := len(l.entries)
	if l.len() == 0 || l.entries[n-1].before(e) {
		l.entries = append(l.entries, e)
		return
	}
	if e.before(l.first()) {
		if l.head == 0 {
			// So much that pop does not close the gap before it was worth it.
			l.head = l.len()/4 + 16
			l.entries = append(make([]*entry, l.head), l.entries...)
		}
		l.head--
		l.entries[l.head] = e
		return
	}
	at, _ := slices.BinarySearchFunc(l.entries[l.head:], e, func(a, b *entry) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	l.entries = slices.Insert(l.entries, l.head+at, e)
}

// clear empties the line and tells how many were in it.
func (l *line) clear() int {
	n := l.len()
	*l = line{}
	return n
}
