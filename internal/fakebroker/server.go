package fakebroker

import (
	"errors"
	"net"
	"sync"
)

// Server is a broker on one address.
type Server struct {
	ln      net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	conns  map[*conn]bool
	closed bool
}

// Listen takes an address; Serve answers on it.
func Listen(addr string) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Server{ln: ln, conns: map[*conn]bool{}}, nil
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
		s.accept(newConn(nc))
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
