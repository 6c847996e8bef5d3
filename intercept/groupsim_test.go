package intercept

import (
	"cmp"
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"amqproxy/frame"
)

// The simulation of consumer groups: some nodes with a broker each, sessions on them with
// clients that consume, settle, cancel and die, and everything on its way for a random time.
// All of it comes from a seed alone, time too.
//
//	groupsim_test.go          histories, time, and what is on its way
//	groupsim_history_test.go  what happens in one
//	groupsim_rest_test.go     how it comes to rest and ends, and what must hold then
//	groupsim_faults_test.go   what goes wrong
//	groupsim_broker_test.go   a broker's connections and channels
//	groupsim_queue_test.go    its queues
//	groupsim_node_test.go     what internal/node does for groups, by the same rules, and gossip
//	groupsim_session_test.go  what internal/proxy does for a Conn
//	groupsim_client_test.go   what a client is sent
//	groupsim_acts_test.go     what it does
//	groupsim_contents_test.go messages that are put together from frames
//	groupsim_check_test.go    what must hold at every step
var (
	simulations = flag.Int("simulations", 0, "how many histories of consumer groups there are; some if 0")
	simulation  = flag.Uint64("simulation", 0, "the first of them; if -simulations is not given it is gone through alone, and all that happens in it is told")
)

// someSimulations are done in a few seconds, with the race detector too.
const someSimulations = 60

// TestGroupHistories: whatever joins, leaves, dies, is cut off or comes late, the shards of a
// group have one consumer each that is active where the group is ordered, no message is
// settled that the client has not settled, none is lost, and it all comes to rest.
func TestGroupHistories(t *testing.T) {
	var counts simCounts
	if *simulation > 0 && *simulations == 0 {
		if err := simulate(*simulation, true, &counts); err != nil {
			t.Fatal(err)
		}
		return
	}
	first := max(*simulation, 1)
	for seed := first; seed < first+uint64(cmp.Or(*simulations, someSimulations)); seed++ {
		if err := simulate(seed, false, &counts); err != nil {
			t.Fatalf("%v\nto see how it came to that: go test ./intercept -run TestGroupHistories -simulation %d", err, seed)
		}
	}
	t.Log(counts.String())
}

// sim is one history.
type sim struct {
	seed   uint64
	rnd    *rand.Rand
	now    time.Duration
	turn   int // how much has happened
	agenda agenda
	traces bool
	counts *simCounts

	simWorld
	simHistory
}

// simFailure is what does not hold.
type simFailure string

func simulate(seed uint64, traces bool, counts *simCounts) (err error) {
	s := &sim{seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), traces: traces, counts: counts}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case simFailure:
			err = fmt.Errorf("history %d, after %v: %s", seed, s.now, string(r))
		default:
			fmt.Fprintf(os.Stderr, "history %d, after %v:\n", seed, s.now)
			panic(r)
		}
	}()
	s.happens()
	return nil
}

func (s *sim) fail(format string, args ...any) {
	text := simFailure(fmt.Sprintf(format, args...))
	s.trace("FAILS: %s", text)
	panic(text)
}

func (s *sim) trace(format string, args ...any) {
	if s.traces {
		fmt.Printf("%9.4f  %s\n", s.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// agenda is what will happen, the next thing first.
type agenda []simEvent

type simEvent struct {
	at time.Duration
	n  int
	do func()
}

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].n < a[j].n
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(e any)   { *a = append(*a, e.(simEvent)) }
func (a *agenda) Pop() any {
	last := len(*a) - 1
	e := (*a)[last]
	(*a)[last] = simEvent{}
	*a = (*a)[:last]
	return e
}

// at has something happen then, in has it happen so much later.
func (s *sim) at(when time.Duration, do func()) {
	s.turn++
	heap.Push(&s.agenda, simEvent{when, s.turn, do})
}

func (s *sim) in(d time.Duration, do func()) { s.at(s.now+d, do) }

// run lets time pass.
func (s *sim) run(until time.Duration) {
	for len(s.agenda) > 0 && s.agenda[0].at <= until {
		e := heap.Pop(&s.agenda).(simEvent)
		s.now = e.at
		s.turn++
		e.do()
	}
	s.now = until
}

func (s *sim) chance(p float64) bool { return s.rnd.Float64() < p }

// upTo is a random time up to most.
func (s *sim) upTo(most time.Duration) time.Duration {
	return time.Duration(s.rnd.Int64N(int64(most)))
}

// lag is how long something is on its way: mostly a moment.
func (s *sim) lag() time.Duration {
	switch p := s.rnd.Float64(); {
	case p < .9:
		return 100*time.Microsecond + s.upTo(2*time.Millisecond)
	case p < .99:
		return s.upTo(50 * time.Millisecond)
	}
	return s.upTo(400 * time.Millisecond)
}

// packet is a frame on its way; one without a frame is the end.
type packet struct {
	frame frame.Frame
	turn  int // when it was sent
	at    time.Duration
	taken func() // called just before it is taken
}

// pipe is one way of a connection: what is put in comes out in order, in parts of any size.
type pipe struct {
	s    *sim
	node *simNode // where it ends; nil if not at a proxy
	take func([]packet)
	way  []packet
	due  int // how often something will come out
	last time.Duration
	shut bool // nothing comes out any more
}

func (p *pipe) send(packets ...packet) {
	if p.shut {
		return
	}
	for i := range packets {
		packets[i].turn, packets[i].at = p.s.turn, p.s.now
	}
	p.way = append(p.way, packets...)
	p.due++
	p.last = max(p.last, p.s.now+p.s.lag())
	p.s.at(p.last, func() { p.node.do(p.arrive) })
}

// write sends all frames of b.
func (p *pipe) write(b []byte) {
	var packets []packet
	for _, f := range cut(b) {
		packets = append(packets, packet{frame: f})
	}
	p.send(packets...)
}

func (p *pipe) arrive() {
	if p.due--; p.shut || len(p.way) == 0 {
		return
	}
	n := len(p.way)
	if p.due > 0 {
		n = 1 + p.s.rnd.IntN(n)
	}
	packets := p.way[:n:n]
	p.way = p.way[n:]
	p.take(packets)
}

// end says that nothing more will come.
func (p *pipe) end() { p.send(packet{}) }
