package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// What the processes tell of themselves, a line each:
const (
	sent   = "sent"   // key, producer, number: before the publish
	stored = "stored" // key, producer, number: it is confirmed
	reads  = "reads"  // a consumer is there
	got    = "got"    // key, producer, number, redelivered: before anything is done with it
	done   = "done"   // key, producer, number: before the ack
	ended  = "ended"  // in order
	cut    = "cut"    // said by the scenario, before it kills a process or a proxy
)

// event is one line. All write to one pipe, so that the lines are in the order in which
// things happened: what a consumer says before its ack stands before what the next one says
// who gets the key after it.
type event struct {
	who, what, key, producer string
	number                   int
	redelivered              bool
}

// say writes an event in one piece.
func (e event) say(to io.Writer) {
	fmt.Fprintf(to, "%s %s %q %q %d %v\n", e.who, e.what, e.key, e.producer, e.number, e.redelivered)
}

func parse(line string) (e event, err error) {
	_, err = fmt.Sscanf(line, "%s %s %q %q %d %v", &e.who, &e.what, &e.key, &e.producer, &e.number, &e.redelivered)
	return e, err
}

// events reads the pipe into an account.
type events struct {
	write *os.File
	done  chan struct{} // closed when all writers have ended

	mu      sync.Mutex
	account *account
}

func newEvents() (*events, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	e := &events{write: w, done: make(chan struct{}), account: newAccount()}
	go e.follow(r)
	return e, nil
}

func (e *events) follow(r *os.File) {
	defer close(e.done)
	defer r.Close()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		one, err := parse(lines.Text())
		e.mu.Lock()
		if err != nil {
			e.account.wrong("a line that means nothing: %q", lines.Text())
		} else {
			e.account.take(one, time.Now())
		}
		e.mu.Unlock()
	}
}

// look looks at the account.
func (e *events) look(do func(*account)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	do(e.account)
}

// close waits for the last line, when all other processes have ended.
func (e *events) close() {
	e.write.Close()
	<-e.done
}
