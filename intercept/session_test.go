package intercept

import (
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"

	"pgregory.net/rapid"
)

// TestSessions puts a Conn between a client that keeps to the protocol and a broker
// that does, with everything on its way for a random time. Whatever crosses what:
// the broker gets nothing that it would end the connection for, every message for
// a stream that it routes has a shard's key, in the order that they were sent in;
// the client gets every answer, in the order that it asked in, and no other. Shards
// retire, close and are deleted meanwhile: none of which a delivery may come back, no
// consumer of the client's is lost unless it is told, and none that it has ended goes
// on. In the end nothing is left over.
func TestSessions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSession(t)
		for range rapid.SampledFrom([]int{10, 30, 100, 300}).Draw(t, "steps") {
			steps := append(s.possible(), "client acts", "client acts", "time", "shards change")
			if len(s.broker.consuming()) > 0 {
				steps = append(steps, "broker serves")
			}
			s.step(rapid.SampledFrom(steps).Draw(t, "step"))
			s.checkHolds()
		}
		s.finish()
	})
}

// session is a client, a Conn, a node and a broker. The queues between them are
// what is on its way.
type session struct {
	t      *rapid.T
	conn   *Conn
	out    Out
	snap   snapshot
	client *modelClient
	broker *modelBroker

	fromClient, toBroker, fromBroker, toClient []frame.Frame
	errands                                    []Errand
	seats, held                                map[string]int // by shard
	walked                                     map[string]bool
	came                                       [modelChannels]uint64 // the last delivery tag that the Conn was given
	now                                        time.Time
	hears, ending                              bool
	holds                                      int // of names, that have to come to an end
}

func newSession(t *rapid.T) *session {
	s := &session{t: t, seats: map[string]int{}, held: map[string]int{}, walked: map[string]bool{}, now: time.Unix(0, 0)}
	s.snap.init()
	s.snap.add("stream", "shard.s1", options{"queue-purge": "all", "queue-declare": "answer", "behind": "rr", "far": "u"})
	s.hears = rapid.Bool().Draw(t, "hears of cancels")
	s.conn = New(Config{VHost: "/", FrameMax: 131072, HearsCancel: s.hears, Seed: 1}, s.snap.make(), &shard.Counters{})
	s.client = &modelClient{t: t, hasty: rapid.Bool().Draw(t, "hasty"), reads: rapid.Bool().Draw(t, "reads")}
	s.broker = &modelBroker{t: t, gone: map[string]bool{}}
	return s
}

// possible are the steps that have something to do.
func (s *session) possible() (steps []string) {
	for _, way := range []struct {
		step  string
		ahead int
	}{
		{"client to conn", len(s.fromClient)}, {"conn to broker", len(s.toBroker)},
		{"broker to conn", len(s.fromBroker)}, {"conn to client", len(s.toClient)},
		{"node answers", len(s.errands)}, {"broker acts", len(s.broker.toDo())},
	} {
		if way.ahead > 0 {
			steps = append(steps, way.step)
		}
	}
	return steps
}

func (s *session) step(name string) {
	switch name {
	case "client acts":
		s.fromClient = append(s.fromClient, s.client.act()...)
	case "client to conn":
		n := rapid.IntRange(1, len(s.fromClient)).Draw(s.t, "frames")
		s.feedWith("client", s.fromClient[:n], s.conn.FromClient)
		s.fromClient = s.fromClient[n:]
	case "broker to conn":
		n := rapid.IntRange(1, len(s.fromBroker)).Draw(s.t, "frames")
		s.feedWith("broker", s.fromBroker[:n], s.conn.FromHome)
		s.fromBroker = s.fromBroker[n:]
	case "conn to broker":
		s.fromBroker = append(s.fromBroker, s.broker.take(s.toBroker[0])...)
		s.toBroker = s.toBroker[1:]
	case "conn to client":
		s.fromClient = append(s.fromClient, s.client.take(s.toClient[0])...)
		s.toClient = s.toClient[1:]
	case "broker acts":
		s.fromBroker = append(s.fromBroker, s.broker.act()...)
	case "broker serves":
		s.fromBroker = append(s.fromBroker, s.broker.serve(s.hears)...)
	case "node answers":
		s.answer()
	case "shards change":
		s.change()
	case "time":
		s.tick()
	}
}

// feedWith gives frames to the Conn as one batch in one buffer, which is void behind it.
func (s *session) feedWith(from string, frames []frame.Frame, to func(frame.Frame, *Out) error) {
	var buffer []byte
	for _, f := range frames {
		s.t.Logf("%s: %v", from, f)
		buffer = append(buffer, f...)
	}
	for _, f := range cut(buffer) {
		if err := to(f, &s.out); err != nil {
			s.t.Fatal(err)
		}
		s.arrived(from, f)
	}
	s.collect()
	clear(buffer)
}

// arrived notes how far the deliveries of a channel have come.
func (s *session) arrived(from string, f frame.Frame) {
	if from != "broker" || f.Type() != frame.TypeMethod {
		return
	}
	a := f.Args()
	switch n := f.Channel(); f.Method() {
	case frame.ChannelOpenOk:
		s.came[n] = 0
	case frame.BasicDeliver:
		a.ShortStr()
		s.came[n] = a.LongLong()
	case frame.BasicGetOk:
		s.came[n] = a.LongLong()
	}
}

func (s *session) collect() {
	s.conn.EndBatch()
	for _, f := range cut(s.out.Home.AppendTo(nil)) {
		s.t.Logf("        to broker: %v", f)
		s.toBroker = append(s.toBroker, f)
	}
	for _, f := range cut(s.out.Client.AppendTo(nil)) {
		s.t.Logf("        to client: %v", f)
		s.toClient = append(s.toClient, f)
	}
	s.errands = append(s.errands, s.out.Errands...)
	for _, e := range s.out.Errands {
		if e.Held {
			s.holds--
		}
	}
	s.holds -= len(s.out.Abandoned)
	for _, queue := range s.out.Released {
		s.seats[queue]--
	}
	for _, queue := range s.out.Held {
		s.held[queue]++
	}
	for _, queue := range s.out.Freed {
		s.held[queue]--
	}
	for queue := range s.held {
		if s.seats[queue] < 0 || s.held[queue] < 0 || s.held[queue] > 1 {
			s.t.Fatalf("%s: %d places, held %d times", queue, s.seats[queue], s.held[queue])
		}
	}
	s.out.Reset()
}

// answer comes back from any errand with what the node would find, or with a no.
func (s *session) answer() {
	i := rapid.IntRange(0, len(s.errands)-1).Draw(s.t, "errand")
	e := s.errands[i]
	s.errands = append(s.errands[:i:i], s.errands[i+1:]...)
	a := Answer{Channel: e.Channel, Serial: e.Serial, Messages: 5}
	switch {
	case !s.ending && rapid.IntRange(0, 9).Draw(s.t, "luck") == 0:
		code := rapid.SampledFrom([]uint16{frame.NotFound, frame.ResourceError}).Draw(s.t, "code")
		a.Err = &frame.ChannelError{Code: code, Text: "the node says no"}
	case e.Kind == Pick:
		a.Queue = rapid.SampledFrom(sources(s.snap.streams["shard.s1"])).Draw(s.t, "picked")
		s.seats[a.Queue]++
	case e.Kind == Declare || e.Kind == Delete:
		a.Held = e.Stream.Stream
		s.holds++
	case e.Kind == Learn && e.Stream.Stream == "shard.n":
		s.snap.add("absent", e.Stream.Stream, nil)
	case s.snap.streams[e.Stream.Stream] == nil && (e.Kind == Learn || e.Kind == Make):
		s.snap.add("stream", e.Stream.Stream, options{})
	}
	s.t.Logf("node answers: %s: %v %q", errandText(e), a.Err, a.Queue)
	s.conn.Use(s.snap.make())
	s.conn.Answered(a, &s.out)
	s.collect()
}

// finish lets all that is on its way arrive, and closes what is open.
func (s *session) finish() {
	s.settle()
	s.client.waitsForNothing()
	s.ending = true
	for range 2 {
		s.tick()
		s.settle()
	}
	s.checkHolds()
	s.checkConsumers()
	s.fromClient = append(s.fromClient, s.client.closeAll()...)
	s.settle()
	s.client.waitsForNothing()
	for n := range s.client.channels {
		if c, b := s.client.channels[n].state, s.broker.channels[n].state; c != modelClosed || b != modelClosed {
			s.t.Fatalf("channel %d was closed and is %s for the client, %s for the broker", n, c, b)
		}
	}
	if s.conn.Channels() != 0 || s.conn.Held() != 0 {
		s.t.Fatalf("%d channels are left, and %d octets held", s.conn.Channels(), s.conn.Held())
	}
	if s.holds != 0 {
		s.t.Fatalf("%d names are held for ever", s.holds)
	}
	for what, left := range map[string]map[string]int{"places": s.seats, "deliveries": s.held} {
		for queue, n := range left {
			if n != 0 {
				s.t.Fatalf("of %s %d %s are left", queue, n, what)
			}
		}
	}
}

func (s *session) settle() {
	for range 10000 {
		s.fromClient = append(s.fromClient, s.client.complete()...)
		steps := s.possible()
		if len(steps) == 0 {
			return
		}
		s.step(steps[0])
	}
	s.t.Fatal("it never ends")
}
