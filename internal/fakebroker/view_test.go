package fakebroker

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"
)

// TestQueues: what a Server says of its queues.
func TestQueues(t *testing.T) {
	s := start(t)
	ch := dial(t, s)
	declare(t, ch, "alone", amqp.Table{"x-single-active-consumer": true})
	declare(t, ch, "shared", nil)
	must(t, ch.Qos(1, 0, false))
	for _, q := range []string{"alone", "shared"} {
		put(t, ch, q, "1", "2", "3", "4")
		_, _, err := ch.Get(q, true)
		must(t, err)
		for _, tag := range []string{"b", "a"} {
			_, err := ch.Consume(q, q+tag, false, false, false, false, nil)
			must(t, err)
		}
	}
	must(t, ch.Confirm(false)) // whose answer comes when all of that is done
	want := []QueueView{
		{VHost: "/", Name: "alone", Ready: 2, Unacked: 1, Stored: 4, Readers: []string{"aloneb"}},
		{VHost: "/", Name: "shared", Ready: 1, Unacked: 2, Stored: 4, Readers: []string{"shareda", "sharedb"}},
	}
	if diff := cmp.Diff(want, s.Queues()); diff != "" {
		t.Error(diff)
	}
}

// TestTaken: who has taken what, and that what goes back to its queue is not taken.
func TestTaken(t *testing.T) {
	taken := map[string]int{} // under the vhost's lock, whose answers it is read behind
	s := start(t, func(s *Server) { s.Taken = func(queue, tag string) { taken[queue+" "+tag]++ } })
	ch := dial(t, s)
	for _, q := range []string{"q", "p"} {
		declare(t, ch, q, nil)
		put(t, ch, q, "1", "2", "3", "4")
	}
	deliveries, err := ch.Consume("q", "k", false, false, false, false, nil)
	must(t, err)
	must(t, wantNext(t, deliveries, "1", "2").Ack(true))
	must(t, wantNext(t, deliveries, "3").Reject(false))
	must(t, wantNext(t, deliveries, "4").Reject(true))
	_, _, err = ch.Get("p", true)
	must(t, err)
	d, _, err := ch.Get("p", false)
	must(t, err)
	must(t, d.Ack(false))
	_, err = ch.Consume("p", "all", true, false, false, false, nil)
	must(t, err)
	must(t, ch.Confirm(false)) // whose answer comes when all of that is done
	want := map[string]int{"q k": 3, "p ": 2, "p all": 2}
	if diff := cmp.Diff(want, taken); diff != "" {
		t.Error(diff)
	}
}
