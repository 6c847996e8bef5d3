package main

import (
	"context"
	"fmt"
)

// counts are of the queues of a vhost, over all brokers.
type counts struct {
	queues, down int
	messages     int // ready, or delivered and not acked
}

// count asks the first broker that answers, or, when they are in no cluster, all of them.
func (w *world) count(ctx context.Context, vhost string) (c counts, err error) {
	expr := fmt.Sprintf(`I = [catch rabbit_amqqueue:info(Q, [state, messages]) || Q <- rabbit_amqqueue:list(<<"%s">>)],
		M = [N || [{state, S}, {messages, N}] <- I, is_integer(N), lists:member(S, [running, idle, flow])],
		{length(I), length(I) - length(M), lists:sum(M)}`, vhost)
	for _, b := range w.brokers {
		var text string
		if text, err = b.Eval(ctx, expr); err != nil {
			if w.apart {
				return c, err
			}
			continue
		}
		var one counts
		if _, err = fmt.Sscanf(text, "{%d,%d,%d}", &one.queues, &one.down, &one.messages); err != nil {
			err = fmt.Errorf("count the messages of '%s': %w: %s", vhost, err, text)
			continue
		}
		c = counts{c.queues + one.queues, c.down + one.down, c.messages + one.messages}
		if !w.apart {
			break
		}
	}
	return c, err
}
