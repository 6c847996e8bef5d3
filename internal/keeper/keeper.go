package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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
	apart bool // for what may have no answer, or end the connection
}

// link is one connection. Errands share it, each on a channel of its own.
type link struct {
	made   chan struct{} // closed when the next three are set
	conn   *amqp.Connection
	socket net.Conn
	err    error

	cut   atomic.Bool // an errand's time was over, and it took the socket with it
	users int         // guarded by Keeper.mu
	used  time.Time   // guarded by Keeper.mu
}

// dead tells whether the link was made and lives no more.
func (l *link) dead() bool {
	select {
	case <-l.made:
		return l.err != nil || l.cut.Load() || l.conn.IsClosed()
	default:
		return false
	}
}

// close ends a link that was made; one that is being made ends with its errand.
func (l *link) close() {
	select {
	case <-l.made:
		if l.socket != nil {
			l.socket.Close()
		}
	default:
	}
}

// New returns a Keeper for the broker at host:port. Run must be called too.
func New(broker string) *Keeper {
	return &Keeper{broker: broker, links: map[access]*link{}}
}

// Broker is the broker's host:port.
func (k *Keeper) Broker() string { return k.broker }

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
			l.close() // the broker minds no farewell from an idle connection
		}
	}
}

// with runs an errand on a channel of its own. Whatever blocks in it ends when
// ctx is done: the connection is cut then. Errands that shared it are run again,
// as all of them may be.
func (k *Keeper) with(ctx context.Context, vhost string, login shard.Login, errand func(*session) error) error {
	return k.on(ctx, access{vhost: vhost, login: login}, errand)
}

func (k *Keeper) on(ctx context.Context, a access, errand func(*session) error) error {
	for {
		l, err := k.link(ctx, a)
		if err != nil {
			return err
		}
		err = l.run(ctx, errand)
		k.done(l)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("the broker did not answer in time: %w", ctx.Err())
		case l.cut.Load():
			continue
		}
		return refused(err)
	}
}

// run runs an errand on the link.
func (l *link) run(ctx context.Context, errand func(*session) error) error {
	stop := context.AfterFunc(ctx, func() {
		l.cut.Store(true)
		l.socket.Close()
	})
	defer stop()
	s := &session{conn: l.conn}
	defer s.close()
	return errand(s)
}

func (k *Keeper) done(l *link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l.users--
	l.used = time.Now()
}

// link gives the connection for a, made now if there is none that lives. Who
// comes while it is being made waits for it, and holds up nobody else.
func (k *Keeper) link(ctx context.Context, a access) (*link, error) {
	for {
		k.mu.Lock()
		l := k.links[a]
		if l == nil || l.dead() {
			l = &link{made: make(chan struct{}), used: time.Now(), users: 1}
			k.links[a] = l
			k.mu.Unlock()
			k.make(ctx, a, l)
			return l, l.err
		}
		l.users++
		k.mu.Unlock()
		select {
		case <-l.made:
		case <-ctx.Done():
			k.done(l)
			return nil, fmt.Errorf("broker %s can't be reached: %w", k.broker, ctx.Err())
		}
		switch {
		case l.err == nil && !l.dead():
			return l, nil
		case errors.As(l.err, new(*shard.Refused)):
			k.done(l)
			return nil, l.err
		}
		k.done(l) // its maker may have had less time than we have
	}
}

// make dials l, for all who wait for it.
func (k *Keeper) make(ctx context.Context, a access, l *link) {
	defer close(l.made)
	l.conn, l.socket, l.err = k.dial(ctx, a)
}

func (k *Keeper) dial(ctx context.Context, a access) (conn *amqp.Connection, socket net.Conn, err error) {
	conn, err = amqp.DialConfig("amqp://"+k.broker, amqp.Config{
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
			socket = c
			return c, nil
		},
	})
	if err == nil {
		return conn, socket, socket.SetDeadline(time.Time{})
	}
	var ae *amqp.Error
	at, set := ctx.Deadline()
	switch {
	case set && !time.Now().Before(at): // the library takes a silence in the login for a refusal
		return nil, nil, fmt.Errorf("broker %s can't be reached: %w", k.broker, context.DeadlineExceeded)
	case errors.Is(err, amqp.ErrCredentials), errors.As(err, &ae) && ae.Code == amqp.AccessRefused:
		return nil, nil, &shard.Refused{Code: amqp.AccessRefused, Text: fmt.Sprintf("the broker refuses the login of user '%s' to vhost '%s'", a.login.User, a.vhost)}
	case errors.Is(err, amqp.ErrVhost), errors.As(err, &ae) && ae.Code == amqp.NotAllowed:
		return nil, nil, &shard.Refused{Code: amqp.NotAllowed, Text: fmt.Sprintf("the broker refuses user '%s' in vhost '%s'", a.login.User, a.vhost)}
	}
	return nil, nil, fmt.Errorf("broker %s can't be reached: %w", k.broker, err)
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
