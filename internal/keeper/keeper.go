package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"amqproxy/shard"
)

// idleAfter is how long an unused connection stays.
const idleAfter = 60 * time.Second

// Keeper runs errands on one broker. Its methods may be called concurrently, and
// give *shard.Refused errors where the broker refused something.
type Keeper struct {
	broker string // host:port

	mu    sync.Mutex
	links map[access]*link
}

// access is what a connection is good for.
type access struct {
	vhost string
	login shard.Login
}

// link is one connection. Errands share it, each on a channel of its own.
type link struct {
	conn   *amqp.Connection
	socket net.Conn
	users  int
	used   time.Time
}

// New returns a Keeper for the broker at host:port. Run must be called too.
func New(broker string) *Keeper {
	return &Keeper{broker: broker, links: map[access]*link{}}
}

// Run ends idle connections until ctx is done, and all of them then.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(idleAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			k.drop(func(*link) bool { return true })
			return
		case now := <-tick.C:
			k.drop(func(l *link) bool { return l.users == 0 && now.Sub(l.used) > idleAfter })
		}
	}
}

func (k *Keeper) drop(which func(*link) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for a, l := range k.links {
		if which(l) {
			delete(k.links, a)
			l.socket.Close() // the broker minds no farewell from an idle connection
		}
	}
}

// with runs an errand on a channel of its own. Whatever blocks in it ends when
// ctx is done: the connection is cut then, which hurts other errands on it only
// when the broker has stopped answering.
func (k *Keeper) with(ctx context.Context, vhost string, login shard.Login, errand func(*session) error) error {
	l, err := k.link(ctx, access{vhost, login})
	if err != nil {
		return err
	}
	defer k.done(l)
	stop := context.AfterFunc(ctx, func() { l.socket.Close() })
	defer stop()
	s := &session{conn: l.conn}
	defer s.close()
	if err := errand(s); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("the broker did not answer in time: %w", ctx.Err())
		}
		return refused(err)
	}
	return nil
}

func (k *Keeper) done(l *link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l.users--
	l.used = time.Now()
}

// link gives the connection for a, made now if there is none that lives.
func (k *Keeper) link(ctx context.Context, a access) (*link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.links[a]; l != nil && !l.conn.IsClosed() {
		l.users++
		return l, nil
	}
	delete(k.links, a)
	l, err := k.dial(ctx, a)
	if err != nil {
		return nil, err
	}
	l.users++
	k.links[a] = l
	return l, nil
}

func (k *Keeper) dial(ctx context.Context, a access) (*link, error) {
	l := &link{used: time.Now()}
	conn, err := amqp.DialConfig("amqp://"+k.broker, amqp.Config{
		SASL:       []amqp.Authentication{&amqp.PlainAuth{Username: a.login.User, Password: string(a.login.Password)}},
		Vhost:      a.vhost,
		Heartbeat:  10 * time.Second,
		Properties: amqp.Table{"product": "amqproxy", "connection_name": "amqproxy keeper"},
		Dial: func(network, addr string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			if at, set := ctx.Deadline(); set {
				// amqp091-go lifts it when the connection is open.
				if err := c.SetDeadline(at); err != nil {
					c.Close()
					return nil, err
				}
			}
			l.socket = c
			return c, nil
		},
	})
	if err == nil {
		l.conn = conn
		return l, l.socket.SetDeadline(time.Time{})
	}
	var ae *amqp.Error
	switch {
	case errors.Is(err, amqp.ErrCredentials), errors.As(err, &ae) && ae.Code == amqp.AccessRefused:
		return nil, &shard.Refused{Code: amqp.AccessRefused, Text: fmt.Sprintf("the broker refuses the login of user '%s' to vhost '%s'", a.login.User, a.vhost)}
	case errors.Is(err, amqp.ErrVhost), errors.As(err, &ae) && ae.Code == amqp.NotAllowed:
		return nil, &shard.Refused{Code: amqp.NotAllowed, Text: fmt.Sprintf("the broker refuses user '%s' in vhost '%s'", a.login.User, a.vhost)}
	}
	return nil, fmt.Errorf("broker %s can't be reached: %w", k.broker, err)
}

// refused turns the broker's channel errors into ours.
func refused(err error) error {
	var ae *amqp.Error
	if errors.As(err, &ae) && ae.Server {
		return &shard.Refused{Code: uint16(ae.Code), Text: ae.Reason}
	}
	return err
}

// isCode tells whether the broker refused something with this reply code.
func isCode(err error, code int) bool {
	var ae *amqp.Error
	return errors.As(err, &ae) && ae.Server && ae.Code == code
}

// session is a channel that is opened anew after a refusal has closed it.
type session struct {
	conn *amqp.Connection
	ch   *amqp.Channel
}

func (s *session) channel() (*amqp.Channel, error) {
	if s.ch != nil && !s.ch.IsClosed() {
		return s.ch, nil
	}
	ch, err := s.conn.Channel()
	s.ch = ch
	return ch, err
}

func (s *session) close() {
	if s.ch != nil {
		s.ch.Close()
	}
}
