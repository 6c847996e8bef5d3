package intercept

import (
	"slices"

	"amqproxy/frame"

	"pgregory.net/rapid"
)

// retiring are the shards of shard.s1 that retire during a session, by their letter
// in the snapshot; see standings.
type retiring struct {
	option string
	at     int
	queue  string
}

var retirings = []retiring{
	{"behind", 0, "stream: shard.s1 - n1 - 2"}, {"behind", 1, "stream: shard.s1 - n1 - 3"},
	{"far", 0, "stream: shard.s1 - n2 - 2"},
}

func (r retiring) letter(o options) byte { return o[r.option][r.at] }

func (r retiring) become(o options, letter byte) {
	b := []byte(o[r.option])
	b[r.at] = letter
	o[r.option] = string(b)
}

// sources are the shards of shard.s1 that are read through it, the retired ones twice.
func sources(o options) []string {
	all := []string{"stream: shard.s1 - n1 - 0", "stream: shard.s1 - n1 - 1"}
	for _, r := range retirings {
		if r.option == "behind" && r.letter(o) == 'r' {
			all = append(all, r.queue, r.queue)
		}
	}
	return all
}

// change lets a shard retire, close, be read again, or be deleted as a node does it.
func (s *session) change() {
	r := rapid.SampledFrom(retirings).Draw(s.t, "shard")
	o := s.snap.streams["shard.s1"]
	switch r.letter(o) {
	case 'u':
		r.become(o, 'r')
	case 'r':
		r.become(o, 'c')
		s.walked[r.queue] = false
	case 'c':
		if !s.free(r.queue) {
			r.become(o, 'r')
			break
		}
		s.delete(r.queue)
		r.become(o, '.')
	}
	s.t.Logf("shards: %v", o)
	s.conn.Use(s.snap.make())
}

// free tells whether the session has nothing to do with a shard that closes, and
// the broker sees no consumer on it: then it is deleted.
func (s *session) free(queue string) bool {
	for _, ch := range s.broker.channels {
		if slices.ContainsFunc(ch.consumers, func(c brokerConsumer) bool { return c.queue == queue }) {
			return false
		}
	}
	return s.walked[queue] && s.held[queue] == 0 && s.seats[queue] == 0
}

// delete is the deletion of a queue: no delivery of it may be lost by that. Of what
// the client has given back the frame may be on its way.
func (s *session) delete(queue string) {
	s.broker.gone[queue] = true
	for n, tags := range s.broker.holding(queue) {
		if !slices.ContainsFunc(s.toBroker, func(f frame.Frame) bool { return f.Channel() == n && ends(f) }) {
			s.t.Fatalf("%s is deleted, and on channel %d deliveries %v are not acknowledged", queue, n, tags)
		}
	}
}

// tick is the walk over the sessions.
func (s *session) tick() {
	s.t.Logf("tick")
	s.conn.Tick(s.now, &s.out)
	s.collect()
	for _, r := range retirings {
		s.walked[r.queue] = true
	}
}

// checkHolds compares what the Conn says that it holds with the broker's deliveries.
func (s *session) checkHolds() {
	for _, r := range retirings {
		quiet := len(s.toBroker)+len(s.fromBroker) == 0
		due := false
		for n, tags := range s.broker.holding(r.queue) {
			for _, tag := range tags {
				due = due || s.came[n] >= tag && !slices.ContainsFunc(s.toBroker, func(f frame.Frame) bool { return f.Channel() == n && ends(f) })
			}
		}
		if due && s.held[r.queue] == 0 {
			s.t.Fatalf("%s is said to be free; the broker waits for %v", r.queue, s.broker.holding(r.queue))
		}
		if !due && quiet && s.held[r.queue] > 0 && !s.excused(r.queue) {
			s.t.Fatalf("%s is said to be held, and the broker waits for nothing", r.queue)
		}
	}
}

// excused: in a transaction, and behind recover-async and an ack of all, more may seem
// to be held than is; and a consumer that the client began by the shard's name holds it.
func (s *session) excused(queue string) bool {
	for _, ch := range s.broker.channels {
		if slices.ContainsFunc(ch.consumers, func(c brokerConsumer) bool { return c.queue == queue && c.tag[0] == 's' }) {
			return true
		}
	}
	for n := range s.client.channels {
		if ch := &s.client.channels[n]; ch.tx || ch.async {
			return true
		}
	}
	return false
}

// checkConsumers compares the client's consumers with the broker's, when nothing is
// on its way: none is lost, and none is left on a shard that closes.
func (s *session) checkConsumers() {
	closing := map[string]bool{}
	for _, r := range retirings {
		closing[r.queue] = r.letter(s.snap.streams["shard.s1"]) == 'c'
	}
	for n := range s.client.channels {
		ch := &s.client.channels[n]
		if ch.state != modelOpen {
			continue
		}
		there := map[string]bool{}
		for _, c := range s.broker.channels[n].consumers {
			there[c.tag] = true
			if !ch.live[c.tag] && !ch.unsure[c.tag] {
				s.t.Fatalf("channel %d: %s consumes, and the client has ended it", n, c.tag)
			}
			if c.tag[0] == 'v' && closing[c.queue] {
				s.t.Fatalf("channel %d: %s is left on %s", n, c.tag, c.queue)
			}
		}
		for tag := range ch.live {
			if s.hears && !there[tag] {
				s.t.Fatalf("channel %d: consumer %s was lost", n, tag)
			}
		}
	}
}
