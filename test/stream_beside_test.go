package test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestStreamsBesideFailingOnes: streams whose keeper can't log in, which the broker
// takes 3 s to say each time, keep nobody waiting who uses another stream.
func TestStreamsBesideFailingOnes(t *testing.T) {
	t.Parallel()
	definitions := map[string]string{"good": "{shards-per-node: 2}"}
	const failing = 5
	for i := range failing {
		definitions[fmt.Sprint("bad", i)] = fmt.Sprintf("{local-username: nobody-%d, local-password: wrong}", i)
	}
	l := startStreams(t, definitions)
	l.declare(t, "good.a")
	var declaring sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range failing {
		ch := l.channel(t)
		declaring.Go(func() {
			defer stop()
			err := ch.ExchangeDeclare(fmt.Sprintf("bad%d.a", i), "topic", true, false, false, false, nil)
			if err == nil {
				t.Errorf("a stream whose keeper can't log in was declared")
			}
		})
	}
	conn := l.dial(t)
	uses := map[string]func(*amqp.Channel) error{
		"consume": func(ch *amqp.Channel) error {
			_, err := ch.Consume("good.a", "", false, false, false, false, nil)
			return err
		},
		"passive queue.declare": func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive("good.a", true, false, false, false, nil)
			return err
		},
		"exchange.declare": func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("good.a", "x-consistent-hash", true, false, false, false, nil)
		},
		"a new stream": func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(fmt.Sprint("good.", time.Now().UnixNano()%10), "topic", true, false, false, false, nil)
		},
	}
	slowest := map[string]time.Duration{}
	for ctx.Err() == nil { // until the first failing declare is answered
		for name, use := range uses {
			ch, begun := streamOpen(t, conn), time.Now()
			if err := use(ch); err != nil {
				t.Errorf("%s beside streams that fail: %v", name, err)
			}
			slowest[name] = max(slowest[name], time.Since(begun))
			ch.Close()
		}
	}
	declaring.Wait()
	for name, took := range slowest {
		if took > time.Second {
			t.Errorf("%s took up to %s beside streams that fail, want it not to wait for them", name, took)
		}
	}
}

// TestStreamsBesideSlowOnes: a stream that takes longer to make than its declarer
// may wait costs that declarer an error, and nobody else.
func TestStreamsBesideSlowOnes(t *testing.T) {
	t.Parallel()
	const patience = 400 * time.Millisecond
	l := startStreams(t, map[string]string{"slow": "{shards-per-node: 400}", "good": "{shards-per-node: 2}"},
		fmt.Sprintf("limits: {declare-timeout: %s}", patience))
	l.declare(t, "good.a")
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var busy sync.WaitGroup
	for range 2 {
		conn := l.dial(t)
		busy.Go(func() {
			for ctx.Err() == nil {
				if ch, err := conn.Channel(); err == nil {
					ch.ExchangeDeclare("slow.a", "topic", true, false, false, false, nil) // may come too late
					ch.Close()
				}
			}
		})
	}
	conn := l.dial(t)
	for ctx.Err() == nil {
		ch, begun := streamOpen(t, conn), time.Now()
		_, err := ch.QueueDeclarePassive("good.a", true, false, false, false, nil)
		if took := time.Since(begun); err != nil && took < patience {
			t.Errorf("after %s another stream's passive declare got %v", took, err)
		}
		ch.Close()
	}
	busy.Wait()
}
