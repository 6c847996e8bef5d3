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
		{VHost: "/", Name: "alone", Ready: 2, Unacked: 1, Stored: 4, Got: 1, Readers: []string{"aloneb"}},
		{VHost: "/", Name: "shared", Ready: 1, Unacked: 2, Stored: 4, Got: 1, Readers: []string{"shareda", "sharedb"}},
	}
	if diff := cmp.Diff(want, s.Queues()); diff != "" {
		t.Error(diff)
	}
}
