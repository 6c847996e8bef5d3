package main

import (
	"fmt"
	"time"

	"amqproxy/frame"
)

// declare makes the exchanges and queues of both kinds of paths.
func (s *setup) declare(addr, proxy string, queues []string) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.call(fmt.Sprintf("1 exchange.declare exchange=%q type=\"direct\" durable", passName), frame.ExchangeDeclareOk); err != nil {
		return err
	}
	for i, q := range queues {
		if _, err := c.call(fmt.Sprintf("1 queue.declare queue=%q durable arguments={%s}", q, queueLimits), frame.QueueDeclareOk); err != nil {
			return err
		}
		if _, err := c.call(fmt.Sprintf("1 queue.bind queue=%q exchange=%q routing-key=%q", q, passName, key(i)), frame.QueueBindOk); err != nil {
			return err
		}
	}
	return declareStream(proxy, streamName)
}

func declareStream(proxy, name string) error {
	c, err := dial(proxy)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.call(fmt.Sprintf("1 exchange.declare exchange=%q type=\"x-consistent-hash\" durable", name), frame.ExchangeDeclareOk)
	return err
}

// clean empties the queues of a target, past all proxies, and lets what the last
// measurement has left die away.
func (s *setup) clean(target string) error {
	time.Sleep(20 * time.Millisecond)
	if target != rabbit {
		return nil
	}
	c, err := dial(s.targets[target])
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range shards {
		for _, q := range []string{fmt.Sprintf("bench.q%d", i), fmt.Sprintf("stream: %s - %s - %d", streamName, nodeName, i)} {
			if _, err := c.call(fmt.Sprintf("1 queue.purge queue=%q", q), frame.QueuePurgeOk); err != nil {
				return err
			}
		}
	}
	return nil
}
