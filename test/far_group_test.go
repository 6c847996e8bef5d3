package test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/internal/node"
	"amqproxy/test/daemon"
)

// groupLog is what the consumers of a group were delivered, in the order in which they were.
type groupLog struct {
	consumer string
	d        amqp.Delivery
}

// groupJoin has a client of a proxy consume the stream, with a prefetch, and tells all of it.
func (f *far) groupJoin(i int, tag string, prefetch int, all chan<- groupLog) *amqp.Channel {
	f.t.Helper()
	ch := f.channel(i)
	sessionMust(f.t, ch.Qos(prefetch, 0, false))
	deliveries, err := ch.Consume(farStream, tag, false, false, false, false, nil)
	sessionMust(f.t, err)
	go func() {
		for d := range deliveries {
			all <- groupLog{tag, d}
		}
	}()
	return ch
}

// reads waits until the group looks like this: how many shards each consumer reads, all of
// them active.
func (f *far) reads(want map[string]int) {
	f.t.Helper()
	daemon.Eventually(f.t, 15*time.Second, func() error {
		for i, p := range f.proxies {
			groups := view[node.GroupStatus](f.t, p, "groups")
			if len(groups) != 1 {
				return fmt.Errorf("proxy %d: %v", i, groups)
			}
			got := map[string]int{}
			for _, s := range groups[0].Shards {
				if s.State != "active" {
					return fmt.Errorf("proxy %d: %+v", i, groups[0].Shards)
				}
				got[s.Consumer]++
			}
			for _, s := range groups[0].Standby {
				got[s.Consumer] += 0
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("proxy %d: %v", i, got)
			}
		}
		return nil
	})
}

func TestFarGroup(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"balanced", "ordered"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := startFar(t, 2, ", consumers: "+mode, "")
			all := make(chan groupLog, 10_000)
			one := f.groupJoin(0, "one", 10, all)
			f.reads(map[string]int{"one": 6})
			pub := f.channel(1)
			sessionMust(t, pub.Confirm(false))
			const count = 300
			acked, nacked := farSend(t, pub, []string{"a", "b", "c", "d", "e", "f", "g", "h"}, count)
			if len(acked) != count || len(nacked) > 0 {
				t.Fatalf("%d acked, %d nacked", len(acked), len(nacked))
			}
			got := map[string]int{}
			last := map[string]int{}
			tag := uint64(0)
			for len(got) < count {
				var l groupLog
				select {
				case l = <-all:
				case <-time.After(10 * time.Second):
					t.Fatalf("%d of %d", len(got), count)
				}
				if l.d.DeliveryTag != tag+1 {
					t.Fatalf("tag %d after %d", l.d.DeliveryTag, tag)
				}
				tag = l.d.DeliveryTag
				got[string(l.d.Body)]++
				fields := strings.Fields(strings.ReplaceAll(string(l.d.Body), "-", " "))
				n, _ := strconv.Atoi(fields[len(fields)-1])
				if n < last[l.d.RoutingKey] {
					t.Errorf("key %s: %s after %d", l.d.RoutingKey, l.d.Body, last[l.d.RoutingKey])
				}
				last[l.d.RoutingKey] = n
				sessionMust(t, l.d.Ack(false))
			}
			for _, body := range acked {
				if got[body] != 1 {
					t.Errorf("%s: %d times", body, got[body])
				}
			}
			var more []*amqp.Channel
			for i, tag := range []string{"two", "three", "four"} {
				more = append(more, f.groupJoin(i, tag, 10, all))
			}
			daemon.Eventually(t, 10*time.Second, func() error {
				per := map[string]int{}
				for _, s := range view[node.GroupStatus](t, f.proxies[2], "groups")[0].Shards {
					if s.State != "active" {
						return fmt.Errorf("%+v", s)
					}
					per[s.Consumer]++
				}
				counts := []int{}
				for _, n := range per {
					counts = append(counts, n)
				}
				slices.Sort(counts)
				if fmt.Sprint(counts) != "[1 1 2 2]" {
					return fmt.Errorf("%v", per)
				}
				return nil
			})
			sessionMust(t, one.Close())
			for _, ch := range more[1:] {
				sessionMust(t, ch.Close())
			}
			f.reads(map[string]int{"two": 6})
		})
	}
}

// TestFarGroupAcksWhatItMayHave: a consumer that acknowledges only when it has as many as it
// may have gets as many, though they are all on one of its shards.
func TestFarGroupAcksWhatItMayHave(t *testing.T) {
	t.Parallel()
	f := startFar(t, 2, ", consumers: ordered", "")
	all := make(chan groupLog, 100)
	ch := f.groupJoin(0, "ten", 10, all)
	f.reads(map[string]int{"ten": 6})
	pub := f.channel(1)
	sessionMust(t, pub.Confirm(false))
	if acked, _ := farSend(t, pub, []string{"one key"}, 40); len(acked) != 40 {
		t.Fatalf("%d acked", len(acked))
	}
	for i := range 40 {
		select {
		case l := <-all:
			if want := fmt.Sprintf("%06d", i); string(l.d.Body) != want {
				t.Fatalf("%s where %s is next", l.d.Body, want)
			}
			if i%10 == 9 {
				sessionMust(t, ch.Ack(l.d.DeliveryTag, true))
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("it waits for message %d", i)
		}
	}
}
