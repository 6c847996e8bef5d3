package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// groupReader is a consumer of a group, over as many connections as it takes.
type groupReader struct {
	url string
	rec *record

	mu     sync.Mutex
	socket net.Conn
}

// session reads what is its part until it is cut off.
func (r *groupReader) session(ctx context.Context) {
	cut, end := context.WithCancel(ctx)
	defer end()
	conn, ch, err := openOn(cut, r.url, r.keep)
	if err != nil {
		return
	}
	defer conn.Close()
	if ch.Qos(prefetch, 0, false) != nil {
		return
	}
	deliveries, err := ch.Consume(stream, "", false, false, false, false, amqp.Table{"x-group-mode": "ordered"})
	if err != nil {
		return
	}
	for d := range deliveries {
		r.rec.delivered(d.Body, d.Redelivered)
		if d.Ack(false) != nil {
			return
		}
	}
}

func (r *groupReader) keep(socket net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.socket = socket
}

// kill ends its connection as the kernel does for a process that is killed with something
// unread: with a reset.
func (r *groupReader) kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	socket, ok := r.socket.(*net.TCPConn)
	if !ok {
		return errors.New("it has no connection")
	}
	return errors.Join(socket.SetLinger(0), socket.Close())
}

// killConsumers kills all consumers at the victim's proxy, and one at each other.
func killConsumers(_ context.Context, r *run) error {
	for i, reader := range r.load.readers {
		if i%nodes != r.Victim && i >= nodes {
			continue
		}
		if err := reader.kill(); err != nil {
			return fmt.Errorf("consumer %d: %w", i, err)
		}
	}
	return nil
}
