package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/internal/fakebroker"
	"amqproxy/test/daemon"
)

// farSend publishes a message to each key in turn until count are sent, on a channel with
// confirms, and tells by body which were acked and which nacked.
func farSend(t *testing.T, ch *amqp.Channel, keys []string, count int) (acked, nacked []string) {
	t.Helper()
	var bodies []string
	var confirms []*amqp.DeferredConfirmation
	for i := range count {
		body := fmt.Sprintf("%06d", i)
		c, err := ch.PublishWithDeferredConfirm(farStream, keys[i%len(keys)], false, false, amqp.Publishing{Body: []byte(body)})
		sessionMust(t, err)
		bodies, confirms = append(bodies, body), append(confirms, c)
	}
	for i, c := range confirms {
		select {
		case <-c.Done():
		case <-time.After(40 * time.Second):
			t.Fatalf("publish %d got no confirm", i)
		}
		if c.Acked() {
			acked = append(acked, bodies[i])
		} else {
			nacked = append(nacked, bodies[i])
		}
	}
	return acked, nacked
}

// farHolds checks that all that was acked is stored, and gives how many messages are stored
// that were not, and how many more than once.
func farHolds(t *testing.T, f *far, acked []string) (more, twice int) {
	t.Helper()
	times := map[string]int{}
	for _, bodies := range f.stored() {
		for _, b := range bodies {
			times[b]++
		}
	}
	for _, b := range acked {
		switch {
		case times[b] == 0:
			t.Errorf("message %s was acked and is lost", b)
		case times[b] > 1:
			twice++
		}
		delete(times, b)
	}
	return len(times), twice
}

// TestFarConfirms: whatever the brokers do with publishes and confirms, each publish is
// settled once, and what is acked is stored.
func TestFarConfirms(t *testing.T) {
	t.Parallel()
	const count = 3000
	for name, tc := range map[string]struct {
		definition string
		faults     fakebroker.Faults
		nacks      [2]int // at least and at most
		twice      bool   // some may be there twice
	}{
		"nack one in a hundred":             {faults: fakebroker.Faults{NackEvery: 100}, nacks: [2]int{20, 40}},
		"return one in a hundred":           {faults: fakebroker.Faults{ReturnEvery: 100}},
		"both":                              {faults: fakebroker.Faults{NackEvery: 100, ReturnEvery: 70}, nacks: [2]int{10, 100}},
		"nack and store":                    {faults: fakebroker.Faults{NackEvery: 100, NackStored: true}, nacks: [2]int{20, 40}},
		"in any grouping, up to 10 s late":  {faults: fakebroker.Faults{ConfirmDelay: 10 * time.Second, Seed: 7}, nacks: [2]int{0, count / 10}},
		"all at once":                       {faults: fakebroker.Faults{ConfirmDelay: time.Second, Seed: 7, NackEvery: 50, ReturnEvery: 30}, nacks: [2]int{1, count}},
		"retried: nack one in a hundred":    {", retry-nacked: true", fakebroker.Faults{NackEvery: 100}, [2]int{0, 0}, false},
		"retried: nack and store":           {", retry-nacked: true", fakebroker.Faults{NackEvery: 100, NackStored: true}, [2]int{0, 0}, true},
		"retried: as 4.3 with a dead queue": {", retry-nacked: true", fakebroker.Faults{Down: []string{"stream: " + farStream + " - " + farNode(1) + " - 0"}}, [2]int{0, 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFar(t, 1, tc.definition, "")
			ch := f.channel(0)
			streamConfirm(t, ch)
			for i, b := range f.brokers {
				faults := tc.faults
				faults.Seed += uint64(i)
				b.SetFaults(faults)
			}
			acked, nacked := farSend(t, ch, streamKeys("k", 50), count)
			if len(acked)+len(nacked) != count || len(nacked) < tc.nacks[0] || len(nacked) > tc.nacks[1] {
				t.Errorf("%d are acked, %d nacked of %d", len(acked), len(nacked), count)
			}
			for _, b := range f.brokers {
				b.SetFaults(fakebroker.Faults{})
			}
			more, twice := farHolds(t, f, acked)
			if twice > 0 != tc.twice {
				t.Errorf("%d messages are there twice", twice)
			}
			t.Logf("acked %d, nacked %d, of these stored %d, twice %d", len(acked), len(nacked), more, twice)
		})
	}
}

// TestFarCutAtEveryByte: a link is cut after each octet of a publish. It is settled all the
// same, as stored only if it is, and the next one goes there again.
func TestFarCutAtEveryByte(t *testing.T) {
	t.Parallel()
	f := startFar(t, 1, "", "")
	key := f.keysOf(1, 1)[0]
	wire := f.wires[1]
	ch := f.channel(0)
	streamConfirm(t, ch)
	publish := func(body string) bool {
		c, err := ch.PublishWithDeferredConfirm(farStream, key, false, false, amqp.Publishing{Body: []byte(body), Headers: amqp.Table{"n": 1}})
		sessionMust(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), streamPatience)
		defer cancel()
		acked, err := c.WaitContext(ctx)
		sessionMust(t, err)
		return acked
	}
	again := func(body string) { // a link that has just come is not opened again at once
		daemon.Eventually(t, streamPatience, func() error {
			if !publish(body) {
				return fmt.Errorf("%s is nacked", body)
			}
			return nil
		})
	}
	again("warm")
	var acked []string
	length := len("\x01\x00\x01\x00\x00\x00\x00\xCE") * 3 // frames without what is in them
	for _, n := range []int{4 + 2 + 1 + len(farStream) + 1 + len(key) + 1, 14 + 4 + 7 + len("\x03BCCA\x00\x00\x00\x00S\x00\x00\x00\x00amqproxy:stream: - far1@test - 0") + len(farStream), 6} {
		length += n
	}
	for at := 1; at <= length; at++ {
		wire.reset.Store(at%2 == 0)
		wire.cutAfter.Store(int64(at))
		if body := fmt.Sprintf("cut %03d", at); publish(body) {
			acked = append(acked, body)
		}
		wire.cutAfter.Store(0)
		body := fmt.Sprintf("new %03d", at)
		again(body)
		acked = append(acked, body)
	}
	more, _ := farHolds(t, f, append(acked, "warm"))
	t.Logf("%d positions, %d were acked, %d more stored", length, len(acked)-length, more)
}

// TestFarSlowLink: a link that carries a few octets at a time carries them all.
func TestFarSlowLink(t *testing.T) {
	t.Parallel()
	f := startFar(t, 1, "", "limits: {stall-timeout: 20s}")
	f.wires[1].slow.Store(true)
	ch := f.channel(0)
	streamConfirm(t, ch)
	acked, nacked := farSend(t, ch, slices.Concat(f.keysOf(0, 5), f.keysOf(1, 5), f.keysOf(2, 5)), 3000)
	if len(nacked) > 0 {
		t.Errorf("%d are nacked", len(nacked))
	}
	if more, twice := farHolds(t, f, acked); more+twice > 0 {
		t.Errorf("%d more are stored, %d twice", more, twice)
	}
}

// TestFarFrozen: a broker that answers nothing any more holds up what is for its shards,
// for stall-timeout, and nothing else. With "wait" no key is out of its order.
func TestFarFrozen(t *testing.T) {
	t.Parallel()
	for policy, keeps := range map[string]bool{"spill": false, "wait": true, "reject": false} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			f := startFar(t, 2, ", on-unavailable: "+policy, "limits: {stall-timeout: 1s, wait-timeout: 20s}")
			own, others := f.keysOf(1, 6), slices.Concat(f.keysOf(0, 6), f.keysOf(2, 6))
			p := startPacer(t, f.channel(0), slices.Concat(own, others))
			p.sends(300 * time.Millisecond)
			f.brokers[1].Freeze()
			p.sends(5 * time.Second)
			f.brokers[1].Thaw()
			p.sends(3 * time.Second)
			p.end()
			if gap := p.longestGap(others); gap > 2*time.Second {
				t.Errorf("the keys of the other shards had no confirm for %s", gap)
			} else {
				t.Logf("the longest gap for the other shards is %s; %d of %d are nacked", gap, p.nacked(), len(p.fates))
			}
			stored := f.stored()
			p.check(stored)
			for key, bodies := range stored {
				if slices.Contains(own, key) && keeps || slices.Contains(others, key) {
					if !slices.IsSorted(bodies) && !duplicatesOnly(bodies) {
						t.Errorf("%s is out of order", key)
					}
				}
			}
			if _, nacked := farSend(t, p.ch, own, len(own)); len(nacked) > 0 || len(f.storedAt(1)) != len(own) {
				t.Errorf("%d are nacked, and not all keys have returned", len(nacked))
			}
		})
	}
}

// TestFarHalfOpen: a link whose other end says nothing any more, not even heartbeats, is
// given up, and a new one is opened when somebody answers again.
func TestFarHalfOpen(t *testing.T) {
	t.Parallel()
	f := startFar(t, 1, "", "limits: {stall-timeout: 1s}")
	keys := f.keysOf(1, 3)
	ch := f.channel(0)
	streamConfirm(t, ch)
	farSend(t, ch, keys, 3)
	f.brokers[1].Freeze()
	daemon.Eventually(t, 40*time.Second, func() error {
		if !strings.Contains(f.proxies[0].Log(), "a link to a broker was lost") {
			return errors.New("the link is there still")
		}
		return nil
	})
	f.brokers[1].Thaw()
	f.stored()
	daemon.Eventually(t, streamPatience, func() error {
		acked, _ := farSend(t, ch, keys, 3)
		if n := len(f.storedAt(1)); n < len(keys) {
			return fmt.Errorf("%d of %d are acked, %d keys are at home", len(acked), 3, n)
		}
		return nil
	})
}

// TestFarBlocked: a broker with an alarm is avoided by publishes to streams, and the
// client does not hear of it unless it is its own.
func TestFarBlocked(t *testing.T) {
	t.Parallel()
	f := startFar(t, 1, "", "")
	conn := streamDial(t, f.proxies[0].URL("guest", "guest", "/"))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 10))
	ch := streamOpen(t, conn)
	streamConfirm(t, ch)
	keys := f.keysOf(1, 4)
	f.brokers[1].Block("low on memory")
	farSendUntil(t, ch, keys, f) // the alarm is told to who publishes
	acked, nacked := farSend(t, ch, keys, 500)
	if len(nacked) > 0 {
		t.Errorf("%d are nacked", len(nacked))
	}
	if len(blocked) > 0 {
		t.Errorf("the client heard that it is blocked: %v", <-blocked)
	}
	f.brokers[1].Unblock()
	if _, twice := farHolds(t, f, acked); twice > 0 {
		t.Errorf("%d are there twice", twice)
	}
}

// farSendUntil publishes until one goes to another node than that of its key.
func farSendUntil(t *testing.T, ch *amqp.Channel, keys []string, f *far) {
	t.Helper()
	other := streamOpen(t, streamDial(t, "amqp://guest:guest@"+f.brokers[0].Addr()))
	third := streamOpen(t, streamDial(t, "amqp://guest:guest@"+f.brokers[2].Addr()))
	daemon.Eventually(t, streamPatience, func() error {
		err := ch.Publish(farStream, keys[0], false, false, amqp.Publishing{Body: []byte("probe")})
		sessionMust(t, err)
		for i, direct := range map[int]*amqp.Channel{0: other, 2: third} {
			q, err := direct.QueueDeclarePassive("stream: "+farStream+" - "+farNode(i)+" - 0", true, false, false, false, nil)
			sessionMust(t, err)
			if q.Messages > 0 {
				return nil
			}
		}
		return fmt.Errorf("everything goes to the blocked broker still")
	})
}

// TestFarDelete: what is done to the whole stream is done at all brokers.
func TestFarDelete(t *testing.T) {
	t.Parallel()
	f := startFar(t, 1, ", queue-purge: all, queue-delete: all", "")
	ch := f.channel(0)
	streamConfirm(t, ch)
	keys := slices.Concat(f.keysOf(0, 3), f.keysOf(1, 3), f.keysOf(2, 3))
	farSend(t, ch, keys, 90)
	q, err := f.channel(1).QueueDeclarePassive(farStream, true, false, false, false, nil)
	sessionMust(t, err)
	if q.Messages != 90 {
		t.Errorf("the stream holds %d messages, want 90", q.Messages)
	}
	if n, err := f.channel(2).QueuePurge(farStream, false); n != 90 || err != nil {
		t.Errorf("%d messages were purged: %v", n, err)
	}
	sessionMust(t, f.channel(1).ExchangeDelete(farStream, false, false))
	daemon.Eventually(t, streamPatience, func() error {
		for i, b := range f.brokers {
			direct := streamOpen(t, streamDial(t, "amqp://guest:guest@"+b.Addr()))
			err := direct.ExchangeDeclarePassive(farStream, "direct", true, false, false, false, nil)
			if err == nil || !strings.Contains(err.Error(), "NOT_FOUND") {
				return fmt.Errorf("broker %d has the exchange still: %v", i, err)
			}
		}
		return nil
	})
}

// TestFarManySessions: sessions with links to all brokers leave nothing behind.
func TestFarManySessions(t *testing.T) {
	t.Parallel()
	f := startFar(t, 1, "", "")
	keys := slices.Concat(f.keysOf(0, 1), f.keysOf(1, 1), f.keysOf(2, 1))
	_, metrics := f.proxies[0].Get("/metrics")
	_, before, _ := strings.Cut(metrics, "\namqproxy_connections ")
	before, _, _ = strings.Cut(before, "\n")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 50 {
				conn, err := amqp.Dial(f.proxies[0].URL("guest", "guest", "/"))
				if err != nil {
					t.Error(err)
					return
				}
				ch, err := conn.Channel()
				if err != nil {
					t.Error(err)
					return
				}
				for _, k := range keys {
					if err := ch.Publish(farStream, k, false, false, amqp.Publishing{Body: []byte("x")}); err != nil {
						t.Error(err)
					}
				}
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	daemon.Eventually(t, streamPatience, func() error {
		_, metrics := f.proxies[0].Get("/metrics")
		for _, want := range []string{"\namqproxy_publish_links 0\n", "\namqproxy_connections " + before + "\n"} {
			if !strings.Contains(metrics, want) {
				return fmt.Errorf("no %q in the metrics", want)
			}
		}
		return nil
	})
	stored := 0
	for _, bodies := range f.stored() {
		stored += len(bodies)
	}
	if stored != 1500 {
		t.Errorf("%d messages of 1500 are stored", stored)
	}
}

// TestFarLogin: a broker where the client may not log in refuses what is for its shards,
// with its own words; an account of the definition's is used instead of the client's.
func TestFarLogin(t *testing.T) {
	t.Parallel()
	users := func(i int) map[string]string {
		if i == 1 {
			return map[string]string{"guest": "guest", "robot": "beep"}
		}
		return map[string]string{"guest": "guest", "alice": "a", "robot": "beep"}
	}
	for _, tc := range []struct{ definition, refusal string }{
		{"", "ACCESS_REFUSED - stream 'shard.far': the broker of node 'far1@test': ACCESS_REFUSED - Login was refused"},
		{", publish-as: robot, publish-password: beep", ""},
	} {
		f := startFarWith(t, 1, tc.definition, "", func(i int, s *fakebroker.Server) { s.Users = users(i) })
		ch := streamOpen(t, streamDial(t, f.proxies[0].URL("alice", "a", "/")))
		streamConfirm(t, ch)
		if _, nacked := farSend(t, ch, slices.Concat(f.keysOf(0, 1), f.keysOf(2, 1)), 2); len(nacked) > 0 {
			t.Errorf("%d are nacked", len(nacked))
		}
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		c, err := ch.PublishWithDeferredConfirm(farStream, f.keysOf(1, 1)[0], false, false, amqp.Publishing{})
		sessionMust(t, err)
		if tc.refusal != "" {
			streamWantClosed(t, closed, amqp.AccessRefused, tc.refusal)
		} else if !c.Wait() {
			t.Error("it is nacked")
		}
	}
}
