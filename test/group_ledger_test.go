package test

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"amqproxy/test/daemon"
)

// ledger follows every message of a stream from its publish to its last delivery. A message
// says in its body who has sent it, with which key, and the how manieth of that key it is;
// a producer sends them in this order.
type ledger struct {
	mu     sync.Mutex
	home   map[string]string // the shard of each key
	tracks map[line]*track
	dead   map[string]bool // readers of which nothing is to come any more, by tag

	forgetful bool            // a broker was killed: it may not know what it has delivered
	noAck     bool            // what is written is settled: a new reader may be faster to read than the one before
	moving    map[string]bool // keys that have no one shard, so that their order means nothing

	sent, delivered  int               // messages, not deliveries
	repeated         int               // deliveries of what was delivered before
	unflagged        int               // of these, said to be new
	disorder, early  int               // see deliver
	first, again     string            // what was wrong first, and what came again first
	reader           map[string]string // who was the last to get something of a shard
	moves            map[string]int    // how often that was another one
	marked           time.Time
	since            map[string]time.Time // the first delivery of each shard since then
	outstanding, top map[string]int       // what a reader has not settled, and the most it was
}

// line is the messages of one key from one producer, which have an order.
type line struct{ producer, key string }

// track is how far a line is.
type track struct {
	sent    int // confirmed up to here, without it
	seen    int // delivered up to here, without it, if in order
	got     map[int]int
	settled map[int]bool
	held    map[int]string // the reader that has it and has not settled it
	again   map[int]bool   // sent more than once
	last    int            // what was delivered last
	reader  string
}

func newLedger(home map[string]string) *ledger {
	return &ledger{home: home, tracks: map[line]*track{}, dead: map[string]bool{}, moving: map[string]bool{}, reader: map[string]string{},
		moves: map[string]int{}, since: map[string]time.Time{}, outstanding: map[string]int{}, top: map[string]int{}}
}

func (l *ledger) track(at line) *track {
	t := l.tracks[at]
	if t == nil {
		t = &track{got: map[int]int{}, settled: map[int]bool{}, held: map[int]string{}, again: map[int]bool{}, last: -1}
		l.tracks[at] = t
	}
	return t
}

// noteBody is what a message says.
func noteBody(at line, seq int) []byte { return fmt.Appendf(nil, "%s %s %d", at.producer, at.key, seq) }

func noteParse(body []byte) (at line, seq int, err error) {
	_, err = fmt.Sscanf(string(body), "%s %s %d", &at.producer, &at.key, &seq)
	return at, seq, err
}

// sends is called before a message is sent, with again not for the first time.
func (l *ledger) sends(at line, seq int, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.track(at); again {
		t.again[seq] = true
	}
}

// stored is called when it is confirmed.
func (l *ledger) stored(at line, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.track(at).sent = seq + 1
	l.sent++
}

// deliver is called with every delivery, before anything is done with it. What is delivered
// to a dead reader tells nothing: that is false.
//
// Of each line the messages come one after the other; after a change of readers, those that
// the one before has not settled come again. A message after a gap is out of order, and so
// is one that an earlier one was to come before. It is early if another reader holds a
// message of the line that is not settled.
func (l *ledger) deliver(reader string, body []byte, redelivered bool) bool {
	at, seq, err := noteParse(body)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead[reader] {
		return false
	}
	if err != nil {
		l.wrong("%s got %q", reader, body)
		l.disorder++
		return false
	}
	t, shard := l.track(at), l.home[at.key]
	l.follow(shard, reader)
	for held, by := range t.held {
		if by != reader && !l.moving[at.key] && !l.noAck {
			l.early++
			l.wrong("%s got %v %d while %s held %d", reader, at, seq, by, held)
			break
		}
	}
	t.got[seq]++
	switch again := t.got[seq] > 1; {
	case again:
		l.repeated++
		if l.again == "" {
			l.again = fmt.Sprintf("%s got %v %d of %s, which %s had before (settled: %v)", reader, at, seq, shard, t.reader, t.settled[seq])
		}
		if !redelivered && !t.again[seq] {
			l.unflagged++
			l.wrong("%s got %v %d again (settled: %v), not flagged as redelivered", reader, at, seq, t.settled[seq])
		}
	default:
		l.delivered++
	}
	gap, back := seq > t.seen && !(l.noAck && reader != t.reader), seq <= t.last && reader == t.reader && !t.again[seq] && !(l.forgetful && t.got[seq] > 1)
	if (gap || back) && !l.moving[at.key] {
		l.disorder++
		l.wrong("%s got %v %d after %d of %s, and up to %d had come", reader, at, seq, t.last, t.reader, t.seen-1)
	}
	t.seen = max(t.seen, seq+1)
	t.last, t.reader = seq, reader
	if t.held[seq] == "" {
		l.outstanding[reader]++
		l.top[reader] = max(l.top[reader], l.outstanding[reader])
	}
	t.held[seq] = reader
	return true
}

// follow notes who reads a shard.
func (l *ledger) follow(shard, reader string) {
	if before := l.reader[shard]; before != reader {
		l.reader[shard] = reader
		if before != "" {
			l.moves[shard]++
		}
	}
	if l.since[shard].IsZero() {
		l.since[shard] = time.Now()
	}
}

func (l *ledger) wrong(format string, args ...any) {
	if l.first == "" {
		l.first = fmt.Sprintf(format, args...)
	}
}

// settles is called before the reader's ack is sent.
func (l *ledger) settles(reader string, body []byte) {
	at, seq, _ := noteParse(body)
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.track(at); t.held[seq] == reader {
		delete(t.held, seq)
		t.settled[seq] = true
		l.outstanding[reader]--
	}
}

// dies is called before a reader is cut off: what it holds is to come again.
func (l *ledger) dies(reader string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[reader] = true
	for _, t := range l.tracks {
		maps.DeleteFunc(t.held, func(_ int, by string) bool { return by == reader })
	}
}

// mark begins to look at which shards are read.
func (l *ledger) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marked = time.Now()
	clear(l.since)
}

// covered waits until something was delivered of each of these shards since the mark, and
// tells how long after it that was so.
func (l *ledger) covered(t *testing.T, shards ...string) (took time.Duration) {
	t.Helper()
	daemon.Eventually(t, 2*groupPatience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		took = 0
		for _, s := range shards {
			at := l.since[s]
			if at.IsZero() {
				return fmt.Errorf("nothing was delivered of %s for %s", s, time.Since(l.marked))
			}
			took = max(took, at.Sub(l.marked))
		}
		return nil
	})
	return took
}

// moved is how often shards have changed their readers so far.
func (l *ledger) moved() (sum int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.moves {
		sum += n
	}
	return sum
}

// behind is how many messages are confirmed and not delivered.
func (l *ledger) behind() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent - l.delivered
}

// missing are some of the messages that were confirmed and are not delivered, or not settled.
func (l *ledger) missing() (some []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, t := range l.tracks {
		for seq := 0; seq < t.sent && len(some) < 5; seq++ {
			switch {
			case t.got[seq] == 0:
				some = append(some, fmt.Sprintf("%v %d in %s", at, seq, l.home[at.key]))
			case t.held[seq] != "":
				some = append(some, fmt.Sprintf("%v %d held by %s", at, seq, t.held[seq]))
			}
		}
	}
	return some
}

// drained waits until all that was confirmed is delivered and settled.
func (l *ledger) drained(t *testing.T, within time.Duration) {
	t.Helper()
	daemon.Eventually(t, within, func() error {
		if m := l.missing(); len(m) > 0 {
			return fmt.Errorf("%d messages are not delivered; not settled are %q", l.behind(), m)
		}
		return nil
	})
}

// verdict checks what holds for every group: all was delivered, in the order of each key,
// to one reader at a time, and what came twice was said to. repeats tells that somebody was
// killed, so that something may have come twice.
func (l *ledger) verdict(t *testing.T, repeats bool) {
	t.Helper()
	l.drained(t, groupPatience)
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d messages, %d deliveries again", l.sent, l.repeated)
	if l.sent == 0 || l.delivered < l.sent {
		t.Errorf("%d messages were sent and %d delivered", l.sent, l.delivered)
	}
	unflagged := l.unflagged > 0 && !l.forgetful
	if l.disorder > 0 || l.early > 0 || unflagged || l.repeated > 0 && !repeats {
		t.Errorf("%d deliveries out of order, %d early, %d again, %d of them unflagged; the first: %s; the first again: %s", l.disorder, l.early, l.repeated, l.unflagged, l.first, l.again)
	}
}
