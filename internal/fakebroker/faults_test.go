package fakebroker

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/frame"
)

// publishAll publishes on a channel with confirms and gives what was nacked and what
// came back, by number.
func publishAll(t *testing.T, ch *amqp.Channel, queue string, count int, mandatory bool) (nacked, returned []string) {
	t.Helper()
	returns := ch.NotifyReturn(make(chan amqp.Return, count))
	var confirms []*amqp.DeferredConfirmation
	for i := range count {
		c, err := ch.PublishWithDeferredConfirm("", queue, mandatory, false, amqp.Publishing{Body: []byte(fmt.Sprint(i))})
		must(t, err)
		confirms = append(confirms, c)
	}
	for i, c := range confirms {
		select {
		case <-c.Done():
		case <-time.After(patience):
			t.Fatalf("no confirm for %d", i)
		}
		if !c.Acked() {
			nacked = append(nacked, fmt.Sprint(i))
		}
	}
	for len(returns) > 0 {
		returned = append(returned, string((<-returns).Body))
	}
	return nacked, returned
}

// TestNackAndReturn: each so-manieth is nacked, stored or not, or comes back.
func TestNackAndReturn(t *testing.T) {
	for name, c := range map[string]struct {
		faults                   Faults
		mandatory                bool
		nacked, returned, stored string
	}{
		"nothing":     {Faults{}, true, "[]", "[]", "[0 1 2 3 4 5]"},
		"nack":        {Faults{NackEvery: 3}, false, "[2 5]", "[]", "[0 1 3 4]"},
		"nack stored": {Faults{NackEvery: 3, NackStored: true}, false, "[2 5]", "[]", "[0 1 2 3 4 5]"},
		"return":      {Faults{ReturnEvery: 2}, true, "[]", "[1 3 5]", "[0 2 4]"},
		"return none": {Faults{ReturnEvery: 2}, false, "[]", "[]", "[0 1 2 3 4 5]"},
		"down":        {Faults{Down: []string{"q"}}, true, "[0 1 2 3 4 5]", "[]", "[]"},
		"late":        {Faults{NackEvery: 3, ConfirmDelay: 20 * time.Millisecond}, false, "[2 5]", "[]", "[0 1 3 4]"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			ch := dial(t, s)
			must(t, ch.Confirm(false))
			declare(t, ch, "q", nil)
			s.SetFaults(c.faults)
			nacked, returned := publishAll(t, ch, "q", 6, c.mandatory)
			if fmt.Sprint(nacked) != c.nacked || fmt.Sprint(returned) != c.returned {
				t.Errorf("nacked %v, returned %v; want %s and %s", nacked, returned, c.nacked, c.returned)
			}
			s.SetFaults(Faults{})
			if got := bodies(t, ch, "q"); got != c.stored {
				t.Errorf("stored %s, want %s", got, c.stored)
			}
		})
	}
}

// TestDown: a queue whose node is dead is there for nobody.
func TestDown(t *testing.T) {
	s := start(t)
	declare(t, dial(t, s), "q", nil)
	s.SetFaults(Faults{Down: []string{"q"}})
	_, err := dial(t, s).QueueDeclare("q", true, false, false, false, nil)
	wantCode(t, err, 404)
	_, _, err = dial(t, s).Get("q", true)
	wantCode(t, err, 404)
	s.SetFaults(Faults{})
	declare(t, dial(t, s), "q", nil)
}

// TestLateConfirms: they come out of order, several at once and singly, and each
// publish has one.
func TestLateConfirms(t *testing.T) {
	s := start(t)
	s.SetFaults(Faults{ConfirmDelay: 30 * time.Millisecond, NackEvery: 7, Seed: 5})
	c := rawDial(t, s)
	c.login()
	c.send("1 confirm.select")
	c.want("confirm.select-ok")
	const count = 500
	for range count {
		c.send(`1 basic.publish routing-key="nowhere"`, "1 header body-size=0")
	}
	settled := map[uint64]bool{}
	single, several, disorder, last := 0, 0, 0, uint64(0)
	for len(settled) < count {
		f := c.next()
		a := f.Args()
		tag, multiple := a.LongLong(), a.Bit()
		if tag < last {
			disorder++
		}
		last = tag
		first := tag
		if multiple {
			several++
			first = 1
		} else {
			single++
		}
		for n := first; n <= tag; n++ {
			acked := f.Method() == frame.BasicAck
			if settled[n] && (!multiple || n == tag) {
				t.Fatalf("%d is settled twice", n)
			}
			if !settled[n] && acked == (n%7 == 0) {
				t.Fatalf("%d was settled by %s", n, f)
			}
			settled[n] = true
		}
	}
	if single == 0 || several == 0 || disorder == 0 {
		t.Errorf("%d single, %d several, %d out of order: want some of each", single, several, disorder)
	}
}

// TestFreeze: nothing is answered meanwhile, and all of it then.
func TestFreeze(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	must(t, ch.Confirm(false))
	declare(t, ch, "q", nil)
	s.Freeze()
	confirm, err := ch.PublishWithDeferredConfirm("", "q", false, false, amqp.Publishing{})
	must(t, err)
	newcomer := rawDial(t, s)
	newcomer.Write(frame.ProtocolHeader)
	newcomer.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := newcomer.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("it greets:", n, err)
	}
	select {
	case <-confirm.Done():
		t.Error("it confirms")
	default:
	}
	s.Thaw()
	if !confirm.Wait() {
		t.Error("not acked")
	}
	newcomer.want("connection.start")
}

// TestKill: what is stored stays, clients are cut, nobody is let in until the restart.
func TestKill(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "q", nil)
	put(t, ch, "q", "1", "2")
	_, _, err := ch.Get("q", false)
	must(t, err)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	s.Kill()
	next(t, closed)
	if _, err := amqp.Dial("amqp://" + s.Addr()); err == nil {
		t.Error("it lets clients in")
	}
	must(t, s.Restart())
	if err := s.Restart(); err == nil {
		t.Error("it restarts twice")
	}
	again := dial(t, s)
	wantBodies(t, again, "q", "1", "2")
	closed = again.NotifyClose(make(chan *amqp.Error, 1))
	s.Cut()
	next(t, closed)
	wantBodies(t, dial(t, s), "q")
}

// TestKillAndRestart: as often and as quickly as one likes.
func TestKillAndRestart(t *testing.T) {
	s := start(t)
	for range 50 {
		s.Kill()
		must(t, s.Restart())
	}
	declare(t, dial(t, s), "q", nil)
}

// TestKillFrozen: what a client sent meanwhile is lost with it.
func TestKillFrozen(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "q", nil)
	s.Freeze()
	must(t, ch.Publish("", "q", false, false, amqp.Publishing{}))
	s.Kill()
	s.Thaw()
	must(t, s.Restart())
	wantBodies(t, dial(t, s), "q")
}

// TestCloseFrozen: a Server ends even so.
func TestCloseFrozen(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "q", nil)
	s.Freeze()
	s.Block("memory")
	must(t, ch.Publish("", "q", false, false, amqp.Publishing{}))
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	s.Close()
	next(t, closed)
}

// TestBlock: who publishes is told and is not read until the end of it.
func TestBlock(t *testing.T) {
	s := start(t)
	conn := connect(t, s)
	blockings := conn.NotifyBlocked(make(chan amqp.Blocking, 2))
	ch, reader := open(t, conn), dial(t, s)
	must(t, ch.Confirm(false))
	declare(t, ch, "q", nil)
	s.Block("low on memory")
	first, err := ch.PublishWithDeferredConfirm("", "q", false, false, amqp.Publishing{Body: []byte("1")})
	must(t, err)
	if b := next(t, blockings); !b.Active || b.Reason != "low on memory" {
		t.Errorf("blocked: %+v", b)
	}
	wantBodies(t, reader, "q")
	s.Unblock()
	if b := next(t, blockings); b.Active {
		t.Errorf("unblocked: %+v", b)
	}
	if !first.Wait() {
		t.Error("not acked")
	}
	wantBodies(t, reader, "q", "1")
}

// TestLogin: who is let in.
func TestLogin(t *testing.T) {
	s := start(t, func(s *Server) {
		s.Users = map[string]string{"anna": "secret"}
		s.VHosts = []string{"/", "other"}
	})
	for _, c := range []struct {
		user, password, vhost string
		code                  int
	}{{"anna", "secret", "other", 0}, {"anna", "wrong", "/", 403}, {"guest", "guest", "/", 403}, {"anna", "secret", "none", 530}} {
		for name, auth := range map[string]amqp.Authentication{
			"PLAIN":    &amqp.PlainAuth{Username: c.user, Password: c.password},
			"AMQPLAIN": &amqp.AMQPlainAuth{Username: c.user, Password: c.password},
		} {
			t.Run(fmt.Sprint(name, c), func(t *testing.T) {
				conn, err := amqp.DialConfig("amqp://"+s.Addr(), amqp.Config{SASL: []amqp.Authentication{auth}, Vhost: c.vhost})
				if c.code == 0 {
					must(t, err)
					conn.Close()
				} else {
					wantCode(t, err, c.code)
				}
			})
		}
	}
	c := rawDial(t, s)
	c.greet(`{authentication_failure_close=true}`, "\x00anna\x00wrong")
	c.wantText(`0 connection.close reply-code=403 reply-text="ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."`)
}
