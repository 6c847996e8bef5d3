package fakebroker

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
)

// soaked counts what became of messages, by queue and body.
type soaked struct {
	mu     sync.Mutex
	counts map[string]int
	total  int
}

func (s *soaked) add(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
	s.total++
}

// TestSoak: whatever consumers do with them and however late their confirms are,
// each message ends in each queue once.
func TestSoak(t *testing.T) {
	s := start(t)
	s.SetFaults(Faults{ConfirmDelay: 5 * time.Millisecond, Seed: 3})
	ch := dial(t, s)
	queues := []string{"one", "two"}
	for _, q := range queues {
		declare(t, ch, q, amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead " + q})
		declare(t, ch, "dead "+q, nil)
		must(t, ch.QueueBind(q, "", "amq.fanout", false, nil))
	}
	const publishers, count = 3, 700
	done := soaked{counts: map[string]int{}}
	var working sync.WaitGroup
	for i, q := range append(queues, queues...) {
		c := dial(t, s)
		must(t, c.Qos(10, 0, i%2 == 0))
		deliveries, err := c.Consume(q, "", false, false, false, false, nil)
		must(t, err)
		working.Go(func() { soakConsume(t, deliveries, q, rand.New(rand.NewPCG(uint64(i), 0)), &done) })
	}
	var publishing sync.WaitGroup
	for p := range publishers {
		c := dial(t, s)
		must(t, c.Confirm(false))
		publishing.Go(func() { soakPublish(t, c, p, count) })
	}
	publishing.Wait()
	eventually(t, func() error {
		done.mu.Lock()
		defer done.mu.Unlock()
		if want := len(queues) * publishers * count; done.total < want {
			return fmt.Errorf("%d of %d are settled", done.total, want)
		}
		return nil
	})
	for _, q := range queues {
		for _, body := range strings.Fields(strings.Trim(bodies(t, ch, "dead "+q), "[]")) {
			done.counts[q+" "+body] += 10
		}
		wantBodies(t, ch, q)
	}
	for what, n := range done.counts {
		if n != 1 && n != 11 {
			t.Errorf("%s ended %d times", what, n)
		}
	}
	s.Close()
	working.Wait()
}

// soakPublish publishes and waits for all acks.
func soakPublish(t *testing.T, c *amqp.Channel, publisher, count int) {
	var confirms []*amqp.DeferredConfirmation
	for i := range count {
		confirm, err := c.PublishWithDeferredConfirm("amq.fanout", "", false, false, amqp.Publishing{Body: fmt.Appendf(nil, "%d-%d", publisher, i)})
		if err != nil {
			t.Error(err)
			return
		}
		confirms = append(confirms, confirm)
	}
	for i, confirm := range confirms {
		if !confirm.Wait() {
			t.Errorf("publish %d was nacked", i)
		}
	}
}

// soakConsume does this and that with deliveries, until they end.
func soakConsume(t *testing.T, deliveries <-chan amqp.Delivery, queue string, random *rand.Rand, done *soaked) {
	for d := range deliveries {
		var err error
		switch n := random.IntN(10); {
		case n < 3:
			err = d.Nack(false, true)
		case n == 3:
			err = d.Reject(false)
			done.add(queue + " " + string(d.Body))
		default:
			err = d.Ack(false)
			done.add(queue + " " + string(d.Body))
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestCutLosesNothing: what was acked is there, however often the sockets are cut.
func TestCutLosesNothing(t *testing.T) {
	s := start(t)
	declare(t, dial(t, s), "q", nil)
	acked := map[string]bool{}
	for round := range 20 {
		conn := connect(t, s)
		ch := open(t, conn)
		must(t, ch.Confirm(false))
		closed := conn.NotifyClose(make(chan *amqp.Error, 1))
		confirms := map[string]*amqp.DeferredConfirmation{}
		for i := range 100 {
			if i == 50 {
				s.Cut()
			}
			body := fmt.Sprintf("%d-%d", round, i)
			confirm, err := ch.PublishWithDeferredConfirm("", "q", false, false, amqp.Publishing{Body: []byte(body)})
			if err != nil {
				break
			}
			confirms[body] = confirm
		}
		next(t, closed)
		for body, confirm := range confirms {
			if confirm.Acked() {
				acked[body] = true
			}
		}
	}
	stored := " " + strings.Trim(bodies(t, dial(t, s), "q"), "[]") + " "
	for body := range acked {
		if strings.Count(stored, " "+body+" ") != 1 {
			t.Errorf("%s was acked and is not stored once", body)
		}
	}
}

// FuzzConn: whatever octets a client sends after its login, the broker lives, and lets
// go of the client when it is gone.
func FuzzConn(f *testing.F) {
	for _, lines := range []string{
		"1 channel.open|1 queue.declare queue=\"q\"|1 confirm.select|1 basic.publish routing-key=\"q\" mandatory|1 header body-size=3 headers={BCC=[\"q\"]} expiration=\"0\"|1 body \"abc\"|1 basic.get queue=\"q\"",
		"1 channel.open|1 queue.declare queue=\"q\" exclusive arguments={x-max-length=1 x-dead-letter-exchange=\"\" x-max-priority=3}|1 basic.consume queue=\"q\"|1 basic.nack multiple requeue|1 basic.recover requeue|1 channel.close",
		"1 channel.open|1 exchange.declare exchange=\"x\" type=\"x-consistent-hash\" auto-delete|1 queue.declare queue=\"q\"|1 queue.bind queue=\"q\" exchange=\"x\" routing-key=\"5\"|1 exchange.bind source=\"x\" destination=\"x\" routing-key=\"2\"|1 basic.publish exchange=\"x\"|1 header body-size=0|1 queue.delete queue=\"q\"",
		"1 channel.open|1 tx.select|1 basic.publish|1 header body-size=0|1 tx.rollback|1 tx.commit|1 queue.declare passive|1 channel.close-ok|1 channel.open",
	} {
		var b []byte
		for line := range strings.SplitSeq(lines, "|") {
			fr, err := frame.ParseText(line)
			if err != nil {
				f.Fatal(err)
			}
			b = append(b, fr...)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		s := &Server{Users: map[string]string{"guest": "guest"}}
		v := newVHost("/", &s.control)
		s.vhosts = map[string]*vhost{"/": v}
		ours, theirs := net.Pipe()
		c := newConn(theirs, s)
		var running, reading sync.WaitGroup
		running.Go(c.run)
		reading.Go(func() {
			for buf := make([]byte, 4096); ; {
				if _, err := ours.Read(buf); err != nil {
					return
				}
			}
		})
		ours.Write(append(fuzzLogin(), octets...))
		ours.Close()
		running.Wait()
		reading.Wait()
		for _, q := range v.queues {
			if len(q.consumers) > 0 || q.owner != nil {
				t.Errorf("%s is left with %d consumers", q, len(q.consumers))
			}
		}
	})
}

func fuzzLogin() []byte {
	b := append([]byte{}, frame.ProtocolHeader...)
	b = frame.Build(b, 0, frame.ConnectionStartOk).Table(nil).ShortStr("PLAIN").LongStr("\x00guest\x00guest").ShortStr("en_US").End()
	b = frame.Build(b, 0, frame.ConnectionTuneOk).Short(10).Long(frame.MinMax).Short(0).End()
	return frame.Build(b, 0, frame.ConnectionOpen).ShortStr("/").ShortStr("").Bit(false).End()
}
