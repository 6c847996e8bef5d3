package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publisher sends messages with keys by chance, as many as its window and the pace
// allow, and notes what it is told of each. The window is one for each group of
// keys, so that a shard which does not answer holds up no other one's keys.
type publisher struct {
	*traffic
	id        int
	at        entrance
	mandatory bool
	rng       *rand.Rand

	mu    sync.Mutex
	room  []int         // by group
	freed chan struct{} // has an item when there is new room
}

func newPublisher(t *traffic, id int, at entrance, seed uint64) *publisher {
	return &publisher{traffic: t, id: id, at: at, rng: rand.New(rand.NewPCG(seed, uint64(id))), freed: make(chan struct{}, 1)}
}

// run publishes, over as many connections as it takes, and waits for the confirms
// until waiting is done.
func (p *publisher) run(publishing, waiting context.Context) {
	again(publishing, func() { p.session(publishing, waiting) })
}

func (p *publisher) session(publishing, waiting context.Context) {
	cut, end := context.WithCancel(waiting)
	defer end()
	conn, ch, err := open(cut, p.at.url)
	if err != nil {
		return
	}
	defer conn.Close()
	if ch.Confirm(false) != nil {
		return
	}
	publishing, stop := context.WithCancel(publishing)
	defer stop()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	var under sync.WaitGroup // way: what waits for something of this channel
	defer under.Wait()
	under.Go(func() { <-closed; stop() })
	returns := ch.NotifyReturn(make(chan amqp.Return, 100))
	under.Go(func() {
		for r := range returns {
			p.rec.returned(r.Body)
		}
	})
	var pending sync.WaitGroup
	p.room = make([]int, len(p.home.node))
	for g := range p.room {
		p.room[g] = window
	}
	for p.pace.Wait(publishing) == nil && p.publish(publishing, ch, &pending) {
	}
	pending.Wait() // the end of the connection, or of waiting, answers all
	conn.CloseDeadline(time.Now().Add(dialTime))
}

// publish sends one message, when there is room for it.
func (p *publisher) publish(ctx context.Context, ch *amqp.Channel, pending *sync.WaitGroup) bool {
	key, ok := p.next(ctx)
	if !ok {
		return false
	}
	group := p.home.group[key]
	m := p.rec.published(p.id, key)
	p.count(group, 1)
	confirm, err := ch.PublishWithDeferredConfirm(stream, routingKey(key), p.mandatory, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: m.body()})
	if err != nil {
		p.rec.unanswered(m) // a part of it may be on its way
		p.count(group, -1)
		return false
	}
	pending.Go(func() {
		switch {
		case confirm.Wait():
			p.rec.acked(m, group)
		case ch.IsClosed():
			p.rec.unanswered(m)
		default:
			p.rec.nacked(m)
		}
		p.count(group, -1)
	})
	return true
}

// next chooses a key in whose group there is room.
func (p *publisher) next(ctx context.Context) (key int, ok bool) {
	for {
		for range 10 {
			key := p.rng.IntN(keys)
			p.mu.Lock()
			ok := p.room[p.home.group[key]] > 0
			p.mu.Unlock()
			if ok {
				return key, true
			}
		}
		select {
		case <-p.freed:
		case <-ctx.Done():
			return 0, false
		}
	}
}

// count counts what is unconfirmed.
func (p *publisher) count(group, change int) {
	p.byNode[p.home.node[group]].Add(int64(change))
	p.byEntrance[p.at.node].Add(int64(change))
	p.mu.Lock()
	p.room[group] -= change
	p.mu.Unlock()
	if change < 0 {
		select {
		case p.freed <- struct{}{}:
		default:
		}
	}
}
