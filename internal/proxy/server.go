package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"amqproxy/frame"
	"amqproxy/shard"
)

// Config is what a Server must be told.
type Config struct {
	Broker           string   // host:port of the broker beside the proxy
	LoopbackUsers    []string // refused when the client is not on this machine
	HandshakeTimeout time.Duration
	WriteTimeout     time.Duration // a peer that takes nothing for so long is closed
	ShutdownTimeout  time.Duration
	MaxConnections   int    // 0 is no limit
	MaxPerAddress    int    // connections from one address; 0 is no limit
	ConnectionRate   int    // connections a second that are accepted, the others wait; 0 is no limit
	FrameMax         uint32 // the most that client and broker may agree on

	StallTimeout   time.Duration // for a broker that confirms nothing, or that does not answer a new link
	ConfirmTimeout time.Duration // for the confirm of a publish to a stream
	WaitTimeout    time.Duration // for a publish that waits for its shard
	HandoverTime   time.Duration // for a client to settle what it has of a shard that is to be another's
	LinkHeartbeat  time.Duration // of links to brokers, in whole seconds
	LinksEach      int           // links to other brokers that a session may have
	MaxLinks       int           // that all may have; 0 is no limit
}

// Node is what sessions ask of their node. Errors of type *shard.Refused are
// told to the client as they are.
type Node interface {
	Snapshot() *shard.Snapshot
	Learn(ctx context.Context, name shard.Name) error
	// Begin says that an exchange is about to be declared or deleted. Held: until
	// Make, Forget or Abandon ends it, who else uses the name waits in Learn.
	Begin(ctx context.Context, name shard.Name, deleting bool) (held bool, err error)
	Abandon(name shard.Name)
	Make(ctx context.Context, name shard.Name, asked shard.Declared, held bool) error
	Forget(ctx context.Context, name shard.Name) error
	Pick(ctx context.Context, name shard.Name) (queue string, err error)
	Leave(vhost, queue string)
	// Join makes a consumer one of the stream's group, until Left. What it is to read stands
	// in Parts under its number; news is closed when these are replaced. Reads tells what it
	// is at with a shard, and Sit that it has to do with one, until Leave.
	Join(ctx context.Context, name shard.Name, client, tag string, exclusive bool) (number uint64, err error)
	Left(number uint64)
	Parts() (parts shard.Parts, news <-chan struct{})
	Reads(number uint64, r shard.Reading, ended bool)
	Sit(vhost, queue string)
	// Hold says that a session has unacknowledged deliveries of a shard, Free that
	// it has none any more.
	Hold(vhost, queue string)
	Free(vhost, queue string)
	// Walk begins a walk over all sessions that has each go by the newest Snapshot,
	// and done ends it.
	Walk() (done func())
	Count(ctx context.Context, name shard.Name, login shard.Login) (messages, consumers int, err error)
	Purge(ctx context.Context, name shard.Name, login shard.Login) (messages int, err error)
	Destroy(ctx context.Context, name shard.Name, login shard.Login, ifUnused, ifEmpty bool) (messages int, err error)
}

// Totals count since the Server began.
type Totals struct {
	Messages  shard.Counters
	Accepted  atomic.Uint64
	Refused   atomic.Uint64 // connections over a limit
	FromBytes atomic.Uint64 // from clients
	ToBytes   atomic.Uint64 // to clients
	Links     atomic.Int64  // to other brokers, now
}

// Server accepts clients and runs their sessions.
type Server struct {
	cfg    Config
	node   Node
	log    *zap.Logger
	totals Totals
	dial   func(ctx context.Context, network, address string) (net.Conn, error) // the broker

	mu       sync.Mutex
	sessions map[*session]bool
	cutOff   bool           // by Cut: there are no more sessions
	from     map[string]int // sessions by the client's address
	running  sync.WaitGroup
}

// New returns a Server; Serve makes it work.
func New(cfg Config, node Node, log *zap.Logger) *Server {
	return &Server{cfg: cfg, node: node, log: log, dial: new(net.Dialer).DialContext,
		sessions: map[*session]bool{}, from: map[string]int{}}
}

// Totals are the Server's counters.
func (s *Server) Totals() *Totals { return &s.totals }

// ticksPerSecond is how often sessions are looked after. Half a second is what a
// heartbeat of one second needs.
const ticksPerSecond = 2

// Serve accepts clients on ln until ctx is done or ln fails. Then it closes ln,
// tells all clients that the proxy shuts down, waits for them for at most
// ShutdownTimeout, and cuts off who is left.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	ticking, halt := context.WithCancel(context.Background())
	var ticker sync.WaitGroup
	ticker.Go(func() { s.tick(ticking) })
	ticker.Go(func() { s.follow(ticking) })
	err := s.acceptAll(ctx, ln)
	ln.Close()
	s.drain()
	halt()
	ticker.Wait()
	return err
}

func (s *Server) acceptAll(ctx context.Context, ln net.Listener) error {
	limit := rate.NewLimiter(rate.Inf, 0)
	if n := s.cfg.ConnectionRate; n > 0 {
		limit = rate.NewLimiter(rate.Limit(n), n)
	}
	for {
		limit.Wait(ctx) // once ctx is done Accept fails
		conn, err := ln.Accept()
		switch {
		case err == nil:
			s.accept(conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, or a client that was gone: both pass
			s.log.Warn("a client could not be accepted", zap.Error(err))
			pause(ctx, 100*time.Millisecond)
		}
	}
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

// accept starts a session, or closes the connection when there are too many.
func (s *Server) accept(conn net.Conn) {
	s.totals.Accepted.Add(1)
	se, err := newSession(s, conn)
	if err != nil {
		s.log.Warn("a client could not be accepted", zap.Error(err))
		conn.Close()
		return
	}
	addr := host(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutOff {
		conn.Close()
		return
	}
	if over(len(s.sessions), s.cfg.MaxConnections) || over(s.from[addr], s.cfg.MaxPerAddress) {
		s.totals.Refused.Add(1)
		conn.Close()
		return
	}
	s.sessions[se] = true
	s.from[addr]++
	s.running.Add(1)
	go se.run(func() { s.ended(se, addr) }) // joined by running, as all that it starts
}

// ended forgets a session.
func (s *Server) ended(se *session, addr string) {
	defer s.running.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, se)
	if s.from[addr]--; s.from[addr] == 0 {
		delete(s.from, addr)
	}
}

// over tells whether one more is too many.
func over(n, limit int) bool { return limit > 0 && n >= limit }

// host is the address of a client without its port.
func host(conn net.Conn) string {
	addr := conn.RemoteAddr().String()
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

// drain ends all sessions.
func (s *Server) drain() {
	for _, se := range s.all() {
		se.shut(&frame.ConnError{Code: frame.ConnectionForced, Text: "amqproxy is shutting down"})
	}
	late := time.AfterFunc(s.cfg.ShutdownTimeout, func() {
		for _, se := range s.all() {
			se.cut("proxy", "shutdown-timeout is over")
		}
	})
	defer late.Stop()
	s.running.Wait()
}

// Cut closes the sockets of all sessions at once, without a word to anybody, and lets no
// more clients in: for who plays the end of the process.
func (s *Server) Cut() {
	s.mu.Lock()
	s.cutOff = true
	s.mu.Unlock()
	for _, se := range s.all() {
		se.cut("proxy", "was killed")
	}
}

// tick looks after the sessions.
func (s *Server) tick(ctx context.Context) {
	t := time.NewTicker(time.Second / ticksPerSecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			done := s.node.Walk()
			for _, se := range s.all() {
				se.tick(now)
			}
			done()
		}
	}
}

// follow tells sessions what their consumers of groups are to read.
func (s *Server) follow(ctx context.Context) {
	for {
		parts, news := s.node.Parts()
		for _, se := range s.all() {
			se.follow(parts)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.sessions))
	for se := range s.sessions {
		all = append(all, se)
	}
	return all
}
