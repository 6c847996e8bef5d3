package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// steady is how long no key moves when all have moved that are to.
const steady = time.Second

// message is one of a producer's, by key and number.
type message struct {
	producer, key string
	number        int
}

// fate is what became of a message.
type fate struct {
	sent, got, done int
	stored          bool
	mayRepeat       bool // its consumer was cut off before its ack was there for sure
}

// line are the messages of one key from one producer, which have an order.
type line struct{ producer, key string }

// account is what became of all messages, and where the keys are.
type account struct {
	messages map[message]*fate
	held     map[message]string   // who has it and has not acknowledged it
	next     map[line]int         // the number of the message that is to come next
	owner    map[string]string    // who got the last message of a key
	recent   map[string][]message // the last that each consumer has acknowledged
	reading  map[string]bool      // who is there
	cut      map[string]bool      // who is being killed: what it has may come to another
	left     map[message]string   // what it has or gets until it is dead

	marked time.Time
	since  map[string]time.Time // when the owner of a key first got something of it since then
	moved  map[string]string    // keys that have another owner since then, and who had it
	last   time.Time            // when the last of them moved

	sent, stored, delivered, again int
	faults                         []string
}

func newAccount() *account {
	return &account{messages: map[message]*fate{}, held: map[message]string{}, next: map[line]int{}, owner: map[string]string{},
		recent: map[string][]message{}, reading: map[string]bool{}, cut: map[string]bool{}, left: map[message]string{}, since: map[string]time.Time{}, moved: map[string]string{}}
}

func (a *account) wrong(format string, args ...any) {
	a.faults = append(a.faults, fmt.Sprintf(format, args...))
}

// take notes what a process says.
func (a *account) take(e event, now time.Time) {
	m := message{e.producer, e.key, e.number}
	switch e.what {
	case sent:
		a.sent++
		a.fate(m).sent++
	case stored:
		a.stored++
		a.fate(m).stored = true
	case reads:
		a.cut[e.who], a.reading[e.who] = false, true
	case got:
		a.got(e, m)
		if a.cut[e.who] {
			a.left[m], a.fate(m).mayRepeat = e.who, true
		} else {
			a.held[m] = e.who
			a.owns(e.who, e.key, now)
		}
	case done:
		if a.held[m] == e.who || a.left[m] == e.who {
			delete(a.held, m)
			a.fate(m).done++
			last := append(a.recent[e.who], m)
			a.recent[e.who] = last[max(0, len(last)-2*prefetch):]
		}
	case cut, ended:
		a.ends(e.who, e.what == cut)
	}
}

func (a *account) fate(m message) *fate {
	if a.messages[m] == nil {
		a.messages[m] = &fate{}
	}
	return a.messages[m]
}

// got checks what is promised of every delivery.
func (a *account) got(e event, m message) {
	for other, by := range a.held {
		if other.key == e.key && by != e.who && !a.cut[e.who] {
			a.wrong("%s got %v while %s had %v", e.who, m, by, other)
		}
	}
	f := a.fate(m)
	if f.got++; f.got > 1 {
		a.again++
		if f.sent < 2 && !(e.redelivered && f.mayRepeat) {
			a.wrong("%s got %v again, redelivered: %v, and nobody was killed who had it", e.who, m, e.redelivered)
		}
	} else {
		a.delivered++
	}
	at := line{e.producer, e.key}
	if e.number > a.next[at] {
		a.wrong("%s got %v, and %d has not come", e.who, m, a.next[at])
	}
	a.next[at] = max(a.next[at], e.number+1)
}

// owns notes who has a key.
func (a *account) owns(who, key string, now time.Time) {
	before := a.owner[key]
	if before == who && !a.since[key].IsZero() {
		return
	}
	a.owner[key], a.since[key] = who, now
	if first, again := a.moved[key]; before != who && !again {
		a.moved[key] = before
	} else if again && first == who {
		delete(a.moved, key)
	}
	if before != who {
		a.last = now
	}
}

// ends notes that a process is gone, or about to be killed: what it has comes again. That of
// which it has written the ack last comes again too, if the ack does not arrive.
func (a *account) ends(who string, killed bool) {
	a.reading[who], a.cut[who] = false, killed
	for m, by := range a.held {
		if by == who {
			delete(a.held, m)
			a.left[m], a.fate(m).mayRepeat = who, true
			if !killed {
				a.wrong("%s ended and had %v", who, m)
			}
		}
	}
	for _, m := range a.recent[who] {
		a.fate(m).mayRepeat = a.fate(m).mayRepeat || killed
	}
}

// mark begins to look at where the keys go.
func (a *account) mark() {
	a.marked = time.Now()
	a.last = a.marked
	clear(a.since)
	clear(a.moved)
}

// covered tells whether every key has come to one of those that are there since the mark, and
// has stayed there for a moment, and how long it took until it came.
func (a *account) covered() (took time.Duration, all bool) {
	if time.Since(a.last) < steady {
		return 0, false
	}
	for _, k := range keys {
		at := a.since[k]
		if at.IsZero() || !a.reading[a.owner[k]] {
			return 0, false
		}
		took = max(took, at.Sub(a.marked))
	}
	return took, true
}

// owners are the keys of each consumer, as text.
func (a *account) owners() string {
	of := map[string][]string{}
	var names []string
	for _, k := range keys {
		who := a.owner[k]
		if !slices.Contains(names, who) {
			names = append(names, who)
		}
		of[who] = append(of[who], k)
	}
	slices.Sort(names)
	for i, who := range names {
		names[i] = who + ": " + strings.Join(of[who], " ")
	}
	return strings.Join(names, "   ")
}

// missing are messages that were stored and are not acknowledged.
func (a *account) missing() (all []string) {
	for m, f := range a.messages {
		if f.stored && (f.done == 0 || a.held[m] != "") {
			all = append(all, fmt.Sprint(m))
		}
	}
	slices.Sort(all)
	return all
}
