package test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/daemon"
)

// crowdPace is how often a publisher of a crowd sends all keys: three in each of two
// topologies have to leave the machine some time for what they watch.
const crowdPace = 100 * time.Millisecond

// crowd is one publisher for each of some proxies. Each sends all keys round and round, waits for
// the confirms of a round, and after a cut connects again and sends again what
// was not confirmed.
type crowd struct {
	t       *testing.T
	rounds  []atomic.Int64 // done, by proxy
	stop    context.CancelFunc
	joined  sync.WaitGroup
	strange atomic.Pointer[string] // something that no restart explains
}

// startCrowd begins to publish keys through some proxies.
func (m *many) startCrowd(stream string, keys int, through ...int) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{t: m.t, rounds: make([]atomic.Int64, len(m.proxies)), stop: stop}
	for _, i := range through {
		c.joined.Go(func() {
			p := m.proxies[i]
			next := 0
			for ctx.Err() == nil {
				url := p.URL("guest", "guest", m.vhost)
				err := c.publish(ctx, i, url, stream, keys, &next)
				var refused *amqp.Error
				if errors.As(err, &refused) && refused.Server && refused.Code != amqp.ConnectionForced {
					text := fmt.Sprintf("through proxy %d: %v", i, err)
					c.strange.Store(&text)
				}
				select {
				case <-time.After(5 * time.Millisecond): // not too many tries while it is away
				case <-ctx.Done():
				}
			}
		})
	}
	m.t.Cleanup(c.end)
	return c
}

// publish sends rounds over one connection until it is cut. A round that was cut
// is sent again from its first message without a confirm.
func (c *crowd) publish(ctx context.Context, i int, url, stream string, keys int, next *int) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	returns := ch.NotifyReturn(make(chan amqp.Return, keys))
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	why := func(err error) error {
		select {
		case e := <-closed:
			if e != nil {
				return e
			}
		default:
		}
		return err
	}
	pace := time.NewTicker(crowdPace)
	defer pace.Stop()
	for ctx.Err() == nil {
		var confirms []*amqp.DeferredConfirmation
		for k := *next; k < keys; k++ {
			p := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("x")}
			confirm, err := ch.PublishWithDeferredConfirm(stream, key(k), true, false, p)
			if err != nil {
				return why(err)
			}
			confirms = append(confirms, confirm)
		}
		for _, confirm := range confirms {
			if !confirm.Wait() {
				return why(errors.New("no confirm"))
			}
			*next++
		}
		if len(returns) > 0 {
			r := <-returns
			return &amqp.Error{Code: int(r.ReplyCode), Reason: "returned: " + r.ReplyText, Server: true}
		}
		*next = 0
		c.rounds[i].Add(1)
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// another waits until the publishers of these proxies have each sent all keys in a
// round that began after now.
func (c *crowd) another(proxies ...int) {
	c.t.Helper()
	want := map[int]int64{}
	for _, i := range proxies {
		want[i] = c.rounds[i].Load() + 2
	}
	daemon.Eventually(c.t, 20*time.Second, func() error {
		for i, n := range want {
			if got := c.rounds[i].Load(); got < n {
				return fmt.Errorf("the publisher at proxy %d has done %d rounds of %d", i, got, n)
			}
		}
		return nil
	})
}

// end stops the publishers, when their rounds are through.
func (c *crowd) end() {
	c.stop()
	c.joined.Wait()
	if s := c.strange.Swap(nil); s != nil {
		c.t.Error(*s)
	}
}
