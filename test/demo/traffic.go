package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/test/broker"
)

// shard is one queue of the stream: of which node, and which of that node's.
type shard struct{ node, index int }

func (s shard) queue(nodes []*broker.Node) string {
	return fmt.Sprintf("stream: %s - %s - %d", stream, nodes[s.node].Name(), s.index)
}

func (s shard) short(nodes []*broker.Node) string {
	name, _, _ := strings.Cut(nodes[s.node].Name(), "@")
	return fmt.Sprintf("%s - %d", name, s.index)
}

// shards are those of the nodes from first up to end, without end.
func shards(first, end int) (all []shard) {
	for node := first; node < end; node++ {
		for index := range perNode {
			all = append(all, shard{node, index})
		}
	}
	return all
}

// message is one key in one round of publishing.
type message struct{ round, key int }

func (m message) routingKey() string { return fmt.Sprintf("key-%d", m.key) }

func (m message) body() []byte { return fmt.Appendf(nil, "%d %d", m.round, m.key) }

func parse(body []byte) (m message, err error) {
	_, err = fmt.Sscanf(string(body), "%d %d", &m.round, &m.key)
	return m, err
}

func open(url string) (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, ch, nil
}

func (p *proxy) url() string { return "amqp://guest:guest@" + p.addr }

// declare is what any application does that publishes: it declares its exchange.
func declare(p *proxy) error {
	conn, ch, err := open(p.url())
	if err != nil {
		return err
	}
	defer conn.Close()
	return ch.ExchangeDeclare(stream, "x-consistent-hash", true, false, false, false, nil)
}

// publish sends every key once, each proxy its share, and tells how many the brokers confirmed.
func publish(ctx context.Context, round int, proxies []*proxy) (confirmed int, err error) {
	counts, failed := make([]int, len(proxies)), make([]error, len(proxies))
	var publishing sync.WaitGroup
	for i, p := range proxies {
		var share []message
		for k := i; k < keys; k += len(proxies) {
			share = append(share, message{round, k})
		}
		publishing.Go(func() { counts[i], failed[i] = publishShare(ctx, p, share) })
	}
	publishing.Wait()
	for _, n := range counts {
		confirmed += n
	}
	return confirmed, errors.Join(failed...)
}

func publishShare(ctx context.Context, p *proxy, share []message) (confirmed int, err error) {
	conn, ch, err := open(p.url())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := ch.Confirm(false); err != nil {
		return 0, err
	}
	returns := ch.NotifyReturn(make(chan amqp.Return, len(share)))
	var confirms []*amqp.DeferredConfirmation
	for _, m := range share {
		c, err := ch.PublishWithDeferredConfirmWithContext(ctx, stream, m.routingKey(), true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: m.body()})
		if err != nil {
			return 0, err
		}
		confirms = append(confirms, c)
	}
	for _, c := range confirms {
		acked, err := c.WaitContext(ctx)
		if err != nil {
			return 0, err
		}
		if acked {
			confirmed++
		}
	}
	return confirmed - len(returns), nil // the confirm of a message that came back means nothing
}

// find tells in which shard each key of a round is.
func find(ctx context.Context, round int, brokers []*broker.Node) (map[int]shard, error) {
	place := map[int]shard{}
	for _, s := range shards(0, len(brokers)) {
		held, err := look(ctx, brokers[s.node], s.queue(brokers))
		if err != nil {
			return nil, err
		}
		for _, m := range held {
			if was, twice := place[m.key]; twice && m.round == round {
				return nil, fmt.Errorf("%s is in '%s' and in '%s'", m.routingKey(), was.queue(brokers), s.queue(brokers))
			}
			if m.round == round {
				place[m.key] = s
			}
		}
	}
	return place, nil
}

// look reads a shard straight from its broker, past the proxies, and leaves all messages in it.
func look(ctx context.Context, node *broker.Node, queue string) (held []message, err error) {
	conn, ch, err := open(node.URL("/"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil || q.Messages == 0 {
		return nil, err
	}
	deliveries, err := ch.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	var last amqp.Delivery
	for range q.Messages {
		var ok bool
		if last, ok = <-deliveries; !ok {
			return nil, fmt.Errorf("'%s' gave %d of its %d messages", queue, len(held), q.Messages)
		}
		m, err := parse(last.Body)
		if err != nil {
			return nil, err
		}
		held = append(held, m)
	}
	return held, last.Nack(true, true)
}

// arrival is a message that a consumer got, and at whose proxy.
type arrival struct {
	message
	node int
}

// consume reads the stream at each proxy, with a consumer for every shard of its node, until count
// different messages have come or none comes any more.
func consume(ctx context.Context, proxies []*proxy, count int) (all []arrival, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	arrivals := make(chan arrival)
	for node, p := range proxies {
		conn, err := amqp.Dial(p.url())
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		for range perNode {
			deliveries, err := subscribe(conn)
			if err != nil {
				return nil, err
			}
			reading.Go(func() { read(ctx, node, deliveries, arrivals) })
		}
	}
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	different := map[message]bool{}
	for len(different) < count {
		select {
		case a := <-arrivals:
			all = append(all, a)
			different[a.message] = true
			quiet.Reset(quietTime)
		case <-quiet.C:
			return all, nil
		case <-ctx.Done():
			return all, ctx.Err()
		}
	}
	return all, nil
}

func subscribe(conn *amqp.Connection) (<-chan amqp.Delivery, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Qos(200, 0, false); err != nil {
		return nil, err
	}
	return ch.Consume(stream, "", false, false, false, false, nil)
}

func read(ctx context.Context, node int, deliveries <-chan amqp.Delivery, arrivals chan<- arrival) {
	for d := range deliveries {
		m, err := parse(d.Body)
		if err != nil || d.Ack(false) != nil {
			return
		}
		select {
		case arrivals <- arrival{m, node}:
		case <-ctx.Done():
			return
		}
	}
}
