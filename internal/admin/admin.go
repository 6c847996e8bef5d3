package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"amqproxy/internal/node"
	"amqproxy/internal/proxy"
)

// pingTimeout bounds the question whether the broker answers.
const pingTimeout = 2 * time.Second

// Sources are what is shown.
type Sources struct {
	Version string
	Node    string
	Broker  string // host:port
	Ping    func(context.Context) error
	Streams *node.Node
	Proxy   *proxy.Server
	// Draining tells whether the proxy is about to end.
	Draining func() bool
}

// BrokerStatus is one broker in the JSON view.
type BrokerStatus struct {
	Node      string `json:"node"`
	Address   string `json:"address"`
	Reachable bool   `json:"reachable"`
	Reason    string `json:"reason,omitempty"`
}

// Handler serves everything that the package shows.
func Handler(s Sources) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(s), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/members", view(func(*http.Request) any { return s.Streams.Members() }))
	mux.HandleFunc("GET /api/v1/brokers", view(func(r *http.Request) any { return []BrokerStatus{s.broker(r.Context())} }))
	mux.HandleFunc("GET /api/v1/streams", view(func(*http.Request) any { return s.Streams.Streams() }))
	mux.HandleFunc("GET /api/v1/shards", view(func(*http.Request) any { return s.Streams.Shards() }))
	mux.HandleFunc("GET /api/v1/groups", view(func(r *http.Request) any { return s.Streams.Groups(r.Context(), r.URL.Query().Get("stream")) }))
	mux.HandleFunc("GET /api/v1/sessions", view(func(*http.Request) any { return s.Proxy.Sessions() }))
	return mux
}

// Serve serves h on ln until ctx is done.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func view(get func(*http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(get(r))
	}
}

// readyz says whether clients should be sent here, and if not, why.
func (s Sources) readyz(w http.ResponseWriter, r *http.Request) {
	if s.Draining() {
		http.Error(w, "amqproxy is shutting down", http.StatusServiceUnavailable)
		return
	}
	if b := s.broker(r.Context()); !b.Reachable {
		http.Error(w, fmt.Sprintf("broker %s: %s", b.Address, b.Reason), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (s Sources) broker(ctx context.Context) BrokerStatus {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	b := BrokerStatus{Node: s.Node, Address: s.Broker, Reachable: true}
	if err := s.Ping(ctx); err != nil {
		b.Reachable, b.Reason = false, err.Error()
	}
	return b
}

func registry(s Sources) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{s}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
