package fakebroker

import (
	"errors"
	"net"
	"sync"
)

// Server is a broker on one address.
type Server struct {
	// Wrap, if set before Serve, stands between the Server and each client: what a
	// test has a broker do wrong.
	Wrap func(net.Conn) net.Conn

	ln      net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	conns  map[*conn]bool
	queues map[string]bool // that were declared, by name
	closed bool
}

// Listen takes an address; Serve answers on it.
func Listen(addr string) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Server{ln: ln, conns: map[*conn]bool{}, queues: map[string]bool{}}, nil
}

// Addr is the host:port that the Server listens on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Serve accepts clients until Close, and gives nil then.
func (s *Server) Serve() error {
	for {
		nc, err := s.ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		if s.Wrap != nil {
			nc = s.Wrap(nc)
		}
		s.accept(newConn(nc, s))
	}
}

func (s *Server) accept(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return
	}
	s.conns[c] = true
	s.running.Go(func() {
		c.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

// known tells whether a queue is there, which it is from its first declare on, unless
// that is passive.
func (s *Server) known(queue string, passive bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !passive {
		s.queues[queue] = true
	}
	return s.queues[queue]
}

// Close ends the Server and all connections, and returns when they are gone.
func (s *Server) Close() {
	s.ln.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}
