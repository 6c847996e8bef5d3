package main

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// message says in its body which it is. The sequence numbers are a publisher's own,
// over all of its keys.
type message struct{ run, publisher, key, seq int }

// bodySize is what the bodies are filled up to.
const bodySize = 200

func (m message) body() []byte {
	b := fmt.Appendf(make([]byte, 0, bodySize), "%d %d %d %d ", m.run, m.publisher, m.key, m.seq)
	return b[:bodySize]
}

func parse(body []byte) (m message, err error) {
	if len(body) != bodySize {
		return m, fmt.Errorf("a body of %d bytes", len(body))
	}
	_, err = fmt.Sscanf(string(body), "%d %d %d %d ", &m.run, &m.publisher, &m.key, &m.seq)
	return m, err
}

// fate is what became of one message.
type fate struct {
	acked, nacked, returned, unanswered bool
	delivered                           uint16
	key                                 uint16
	publishedAt, ackedAt                time.Time
}

// missing: whoever sent it was told that it is safe, and nobody got it.
func (f fate) missing() bool { return f.acked && !f.returned && f.delivered == 0 }

// lost is missing without an excuse.
func (r *record) lost(f fate) bool { return f.missing() && !r.withShard(f) }

// withShard is missing because somebody deleted the queue that it was on its way into.
// RabbitMQ takes messages for a queue until its delete is done, drops them with it
// though the delete was to be of an empty queue, and acks them.
func (r *record) withShard(f fate) bool {
	return f.missing() && r.homes.group[f.key] == r.deleted && f.publishedAt.Before(r.deletedAt)
}

// record is what became of all messages of a run.
type record struct {
	run int

	mu        sync.Mutex
	fates     [][]fate  // by publisher and sequence number
	mandatory []bool    // by publisher: it asked for what can't be routed
	entrance  []int     // by publisher: the node that it connects to
	struck    time.Time // when the fault began
	homes     *homes
	deleted   int       // the group whose shard was deleted; -1 is none
	deletedAt time.Time // when that was done
	highest   [][]int   // by publisher and key: of the first deliveries
	overtaken []overtaken
	unflagged int
	strange   int // deliveries of what this run has not published
	acks      []int
	gaps      gaps
	last      time.Time // of the last delivery
}

func newRecord(number, publishers int, h *homes) *record {
	r := &record{run: number, homes: h, deleted: -1, mandatory: make([]bool, publishers), entrance: make([]int, publishers),
		gaps: newGaps(len(h.node)), acks: make([]int, len(h.node)), last: time.Now()}
	for range publishers {
		r.fates = append(r.fates, nil)
		seen := make([]int, keys)
		for k := range seen {
			seen[k] = -1
		}
		r.highest = append(r.highest, seen)
	}
	return r
}

// published makes the next message of a publisher.
func (r *record) published(publisher, key int) message {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := message{r.run, publisher, key, len(r.fates[publisher])}
	r.fates[publisher] = append(r.fates[publisher], fate{key: uint16(key), publishedAt: time.Now()})
	return m
}

func (r *record) acked(m message, group int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, now := &r.fates[m.publisher][m.seq], time.Now()
	f.acked, f.ackedAt = true, now
	r.acks[group]++
	r.gaps.confirm(group, now)
}

func (r *record) nacked(m message)     { r.note(m, func(f *fate) { f.nacked = true }) }
func (r *record) unanswered(m message) { r.note(m, func(f *fate) { f.unanswered = true }) }

func (r *record) note(m message, what func(*fate)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what(&r.fates[m.publisher][m.seq])
}

// returned notes what came back to its publisher.
func (r *record) returned(body []byte) {
	m, err := parse(body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || !r.knows(m) {
		r.strange++
		return
	}
	r.fates[m.publisher][m.seq].returned = true
}

func (r *record) knows(m message) bool {
	return m.run == r.run && m.publisher >= 0 && m.publisher < len(r.fates) && m.seq >= 0 && m.seq < len(r.fates[m.publisher]) && m.key >= 0 && m.key < keys
}

// delivered notes a delivery. Only the first one of a message counts for the order.
func (r *record) delivered(body []byte, redelivered bool) {
	m, err := parse(body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = time.Now()
	if err != nil || !r.knows(m) {
		r.strange++
		return
	}
	f, highest := &r.fates[m.publisher][m.seq], &r.highest[m.publisher][m.key]
	f.delivered++
	switch {
	case f.delivered > 1 && !redelivered:
		r.unflagged++
	case f.delivered > 1:
	case m.seq < *highest:
		r.overtaken = append(r.overtaken, overtaken{m, *highest})
	default:
		*highest = m.seq
	}
}

// strike notes that the fault begins.
func (r *record) strike() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.struck = time.Now()
}

// shardDeleted notes that a delete is done.
func (r *record) shardDeleted(queue string, node int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deletedAt = time.Now()
	if r.deleted = slices.Index(r.homes.names, queue); r.deleted < 0 {
		r.deleted = slices.Index(r.homes.node, node)
	}
}

// endGaps is when publishing ends.
func (r *record) endGaps() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gaps.end(time.Now())
}

// quiet is how long nothing has been delivered.
func (r *record) quiet() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.last)
}

// confirms are how many acks have come, by group.
func (r *record) confirms() (byGroup []int, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.acks {
		all += n
	}
	return append(byGroup, r.acks...), all
}

// tally counts. Call it when nothing is under way any more.
func (r *record) tally(t *tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for publisher, all := range r.fates {
		before := t.Lost
		for _, f := range all {
			f.count(t)
			if r.withShard(f) {
				t.WithShard++
				t.Lost--
			}
		}
		if r.mandatory[publisher] {
			t.LostMandatory += t.Lost - before
		}
	}
	t.Unflagged, t.Reordered, t.Strange = r.unflagged, r.reordered(), r.strange
}

// overtaken is a message that came after a later one of its publisher and key.
type overtaken struct {
	message
	by int // the later one's number
}

// reordered is of how many keys messages came in another order than they were sent. What was
// not acked may be stored at any time, or not at all.
func (r *record) reordered() int {
	seen := map[int]bool{}
	for _, o := range r.overtaken {
		if fates := r.fates[o.publisher]; fates[o.seq].acked && fates[o.by].acked {
			seen[o.key] = true
		}
	}
	return len(seen)
}

func (f fate) count(t *tally) {
	add := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	t.Attempted++
	add(&t.Acked, f.acked)
	add(&t.Nacked, f.nacked)
	add(&t.Returned, f.returned)
	add(&t.Unanswered, f.unanswered)
	add(&t.Delivered, f.delivered > 0)
	add(&t.Lost, f.missing())
	t.Duplicated += max(0, int(f.delivered)-1)
}

// tally is a record in numbers.
type tally struct {
	Attempted     int `json:"attempted"`
	Acked         int `json:"acked"`
	Nacked        int `json:"nacked"`
	Returned      int `json:"returned"` // they may be acked too
	Unanswered    int `json:"unanswered"`
	Delivered     int `json:"delivered"`          // messages, not deliveries
	Lost          int `json:"lost"`               // acked, not returned, never delivered
	LostMandatory int `json:"lost_mandatory"`     // of these, published as mandatory
	WithShard     int `json:"deleted_with_shard"` // not lost, see there
	Duplicated    int `json:"duplicated"`
	Unflagged     int `json:"duplicated_unflagged"`
	Reordered     int `json:"reordered_keys"`
	Strange       int `json:"strange"` // deliveries of broken or old messages
}
