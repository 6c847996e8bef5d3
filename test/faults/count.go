package main

import (
	"context"
	"fmt"
)

// counts are of the queues of a vhost, over the whole cluster.
type counts struct {
	queues, down int
	messages     int // ready, or delivered and not acked
}

// count asks the first broker that answers.
func (w *world) count(ctx context.Context, vhost string) (c counts, err error) {
	expr := fmt.Sprintf(`I = [catch rabbit_amqqueue:info(Q, [state, messages]) || Q <- rabbit_amqqueue:list(<<"%s">>)],
		M = [N || [{state, S}, {messages, N}] <- I, is_integer(N), lists:member(S, [running, idle, flow])],
		{length(I), length(I) - length(M), lists:sum(M)}`, vhost)
	for _, b := range w.brokers {
		var text string
		if text, err = b.Eval(ctx, expr); err != nil {
			continue
		}
		if _, err = fmt.Sscanf(text, "{%d,%d,%d}", &c.queues, &c.down, &c.messages); err == nil {
			return c, nil
		}
		err = fmt.Errorf("count the messages of '%s': %w: %s", vhost, err, text)
	}
	return c, err
}
