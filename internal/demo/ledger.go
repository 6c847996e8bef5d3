package demo

import "sync"

// What is known of a message, as bits.
const (
	isConfirmed = 1 << iota
	isDelivered
)

// ledger follows every message of the demo from its publish to its delivery.
type ledger struct {
	mu     sync.Mutex
	keys   map[string]*track
	counts counts
}

// track is one key, whose messages are numbered from 0.
type track struct {
	messages  []byte // what is known of each
	confirmed int
	newest    int // the highest number that was delivered; -1 before
	reordered int // first deliveries behind one with a higher number
}

// counts are what became of all messages.
type counts struct {
	Published int // different messages
	Again     int // publishes of one that was not confirmed
	Confirmed int
	Delivered int // different messages
	Repeated  int // deliveries of what was delivered before, flagged as redelivered
	Doubled   int // the same without the flag
	Reordered int // first deliveries that came behind a later message of their key
	Missing   int // confirmed and not delivered: on their way, or lost
	Strange   int // deliveries of what the demo did not publish
	Guests    int // messages that consumers which are not the demo's have taken
}

func newLedger(keys []string) *ledger {
	l := &ledger{keys: map[string]*track{}}
	for _, key := range keys {
		l.keys[key] = &track{newest: -1}
	}
	return l
}

// published notes that a producer publishes a message.
func (l *ledger) published(key string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.keys[key]
	if seq < len(t.messages) {
		l.counts.Again++
		return
	}
	t.messages = append(t.messages, 0)
	l.counts.Published++
}

// confirmed notes that a broker has confirmed one, once.
func (l *ledger) confirmed(key string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.keys[key]
	t.messages[seq] |= isConfirmed
	t.confirmed++
	l.counts.Confirmed++
	if t.messages[seq]&isDelivered == 0 {
		l.counts.Missing++
	}
}

// delivered notes that a consumer has got one.
func (l *ledger) delivered(key string, seq int, redelivered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.keys[key]
	switch {
	case t == nil || seq < 0 || seq >= len(t.messages):
		l.counts.Strange++
		return
	case t.messages[seq]&isDelivered != 0 && redelivered:
		l.counts.Repeated++
		return
	case t.messages[seq]&isDelivered != 0:
		l.counts.Doubled++
		return
	}
	if t.messages[seq]&isConfirmed != 0 {
		l.counts.Missing--
	}
	t.messages[seq] |= isDelivered
	l.counts.Delivered++
	if seq < t.newest {
		t.reordered++
		l.counts.Reordered++
	}
	t.newest = max(t.newest, seq)
}

// strange notes a delivery that can't be one of the demo's messages.
func (l *ledger) strange() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Strange++
}

// guest notes that somebody else's consumer has taken a message from a shard.
func (l *ledger) guest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Guests++
}

// lost is how many messages were confirmed, and did not reach anybody who is known of.
func (c counts) lost() int { return max(0, c.Missing-c.Guests) }

func (l *ledger) total() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// reordered are the keys that have come out of order.
func (l *ledger) reordered() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]bool{}
	for key, t := range l.keys {
		if t.reordered > 0 {
			out[key] = true
		}
	}
	return out
}

// progress is how many messages of each key are confirmed and how far its deliveries are.
func (l *ledger) progress() map[string]progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]progress, len(l.keys))
	for key, t := range l.keys {
		out[key] = progress{t.confirmed, t.newest + 1}
	}
	return out
}

type progress struct{ confirmed, delivered int }
