package fakebroker

import (
	"errors"
	"net"
	"sync"
)

// Server is a broker on one address. Its exported fields are for before Serve.
type Server struct {
	// Sink makes the Server one that keeps nothing; see the package's comment.
	Sink bool
	// Users are the passwords by user; without any there is guest, with guest's.
	Users map[string]string
	// VHosts are the names of the vhosts; without any there is "/".
	VHosts []string
	// Wrap, if set, stands between the Server and each client: what a test has a
	// broker do wrong on the way.
	Wrap func(net.Conn) net.Conn
	// Taken, if set, is told of each message that leaves a queue for good, since a client
	// has acknowledged or rejected it, or wants no acknowledgements; tag is the consumer's,
	// or "" after a get. A lock is held: it must be brief.
	Taken func(queue, tag string)

	addr    string
	control control
	vhosts  map[string]*vhost // set by Serve, and not changed
	next    chan net.Listener // from Restart to Serve; closed by Close
	running sync.WaitGroup    // connections
	clocks  sync.WaitGroup    // one of each vhost

	mu     sync.Mutex // held for a moment only, and no other lock is taken under it
	ln     net.Listener
	down   bool
	closed bool
	conns  map[net.Conn]bool
	queues map[string]bool // that a Sink has heard of, by name
}

// Listen takes an address; Serve answers on it.
func Listen(addr string) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Server{
		addr:   ln.Addr().String(),
		ln:     ln,
		next:   make(chan net.Listener, 1),
		conns:  map[net.Conn]bool{},
		queues: map[string]bool{},
	}, nil
}

// Addr is the host:port that the Server listens on.
func (s *Server) Addr() string { return s.addr }

// Serve accepts clients until Close, and gives nil then. It waits while the Server is
// killed.
func (s *Server) Serve() error {
	if !s.Sink {
		stop := s.begin()
		defer s.clocks.Wait()
		defer stop()
	}
	s.mu.Lock()
	ln := s.ln
	s.mu.Unlock()
	for ; ln != nil; ln = <-s.next {
		if err := s.acceptAll(ln); !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// begin makes the vhosts and starts their clocks, which stop ends.
func (s *Server) begin() (stop func()) {
	if len(s.Users) == 0 {
		s.Users = map[string]string{"guest": "guest"}
	}
	if len(s.VHosts) == 0 {
		s.VHosts = []string{"/"}
	}
	done := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock() // for Queues, which may come at any time
	s.vhosts = map[string]*vhost{}
	for _, name := range s.VHosts {
		v := newVHost(name, &s.control)
		v.taken = s.Taken
		s.vhosts[name] = v
		s.clocks.Go(func() { v.runClock(done) })
	}
	return func() { close(done) }
}

func (s *Server) acceptAll(ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return err
		}
		if s.Wrap != nil {
			nc = s.Wrap(nc)
		}
		s.accept(nc)
	}
}

func (s *Server) accept(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		nc.Close()
		return
	}
	var c interface {
		net.Conn
		run()
	} = newSink(nc, s)
	if !s.Sink {
		c = newConn(nc, s)
	}
	s.conns[c] = true
	s.running.Go(func() {
		c.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

// known tells whether a queue of a Sink is there, which it is from its first declare
// on, unless that is passive.
func (s *Server) known(queue string, passive bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !passive {
		s.queues[queue] = true
	}
	return s.queues[queue]
}

// Cut closes all sockets as they are, as a network does that fails. Clients may
// connect again at once.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut()
}

func (s *Server) cut() {
	for c := range s.conns {
		c.Close()
	}
}

// Kill closes the listener and all sockets, and returns when the connections are gone.
// What is declared and stored stays for Restart, but for what is bound to a
// connection: exclusive queues go, and unacknowledged messages are back in their
// queues.
func (s *Server) Kill() {
	s.mu.Lock()
	s.down = true
	s.ln.Close()
	s.cut()
	s.mu.Unlock()
	s.running.Wait()
}

// Restart listens on the same address again, after Kill.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.down {
		return errors.New("fakebroker: only what was killed can be restarted")
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.ln, s.down = ln, false
	select {
	case <-s.next: // another restart's, which was killed before Serve took it
	default:
	}
	s.next <- ln
	return nil
}

// Close ends the Server and all connections, and returns when they are gone.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.next)
	}
	s.mu.Unlock()
	s.Kill()
}
