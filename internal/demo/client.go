package demo

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	dialTimeout = 5 * time.Second
	redialAfter = 50 * time.Millisecond // when no proxy lets a client in
)

// errDone is how a client says that it has nothing left to do.
var errDone = errors.New("done")

// client is an application that uses an ordinary AMQP library. It connects to its own
// proxy, or while that does not serve, to another.
type client struct {
	name string
	home int // of the site's nodes
	site *site

	mu    sync.Mutex
	at    string // the node that it is connected to; "" is none
	count int    // messages
}

// live connects again and again, and has use work on the channel, until ctx is done or use
// is. The end of ctx closes the socket as it is: to the proxy the client has crashed.
func (c *client) live(ctx context.Context, use func(context.Context, *amqp.Channel) error) {
	for ctx.Err() == nil {
		for i := range c.site.nodes {
			n := c.site.nodes[(c.home+i)%len(c.site.nodes)]
			err := c.through(ctx, n, use)
			if errors.Is(err, errDone) || ctx.Err() != nil {
				return
			}
		}
		pause(ctx, redialAfter)
	}
}

// through works on a connection through one node's proxy for as long as it lasts.
func (c *client) through(ctx context.Context, n *node, use func(context.Context, *amqp.Channel) error) error {
	var socket net.Conn
	conn, err := amqp.DialConfig("amqp://"+n.addr(), amqp.Config{
		Heartbeat:  10 * time.Second,
		Properties: amqp.Table{"connection_name": c.name},
		Dial: func(network, addr string) (net.Conn, error) {
			var err error
			if socket, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr); err != nil {
				return nil, err
			}
			return socket, socket.SetDeadline(time.Now().Add(dialTimeout)) // amqp091-go lifts it
		},
	})
	if err != nil {
		return err
	}
	cut := context.AfterFunc(ctx, func() { socket.Close() })
	defer func() {
		if !cut() { // or it might say goodbye
			socket.Close()
		}
		conn.Close()
	}()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	c.connected(n.name)
	defer c.connected("")
	return use(ctx, ch)
}

func (c *client) connected(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = to
}

func (c *client) counted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
}

// where is the node that the client is connected to, and how many messages it has had.
func (c *client) where() (at string, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at, c.count
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
