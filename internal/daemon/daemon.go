package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	"go.uber.org/zap"

	"amqproxy/internal/admin"
	"amqproxy/internal/config"
	"amqproxy/internal/keeper"
	"amqproxy/internal/node"
	"amqproxy/internal/proxy"
	"amqproxy/membership"
)

// Daemon is one amqproxy.
type Daemon struct {
	cfg     *config.Config
	version string
	log     *zap.Logger
	keeper  *keeper.Keeper
	cluster *membership.Cluster
	node    *node.Node
	server  *proxy.Server

	kill   sync.Once
	killed chan struct{}

	runs        chan struct{} // closed when the next two are set
	addr, admin string
}

// New builds an amqproxy, whose gossip works already; Run must be called too.
func New(cfg *config.Config, version string, log *zap.Logger) (*Daemon, error) {
	d := &Daemon{cfg: cfg, version: version, log: log, keeper: keeper.New(cfg.Broker),
		killed: make(chan struct{}), runs: make(chan struct{})}
	state, err := node.OpenState(filepath.Join(cfg.StateDir, "state.json"), cfg.Node)
	if err != nil {
		return nil, err
	}
	d.cluster, err = membership.New(membership.Config{
		ID: state.Identity(), Node: cfg.Node, Remember: state.Remembered(), Transient: node.Transient,
		Listen: cfg.Gossip.Listen, Advertise: cfg.Gossip.Advertise, Join: cfg.Gossip.Join,
		Label: cfg.Gossip.Label, SecretKey: cfg.Gossip.Secret,
	}, log)
	if err != nil {
		return nil, err
	}
	d.node = node.New(node.Config{
		Name: cfg.Node, ID: state.Identity(), Version: version, Broker: cmp.Or(cfg.BrokerAdvertise, cfg.Broker), Rules: cfg.Rules, State: state,
		DeclareTimeout: cfg.Limits.DeclareTimeout, LostGrace: cfg.Limits.LostGrace,
	}, d.keeper, d.cluster, log)
	d.server = proxy.New(proxy.Config{
		Broker: cfg.Broker, LoopbackUsers: cfg.LoopbackUsers, FrameMax: cfg.Limits.FrameMax,
		HandshakeTimeout: cfg.Limits.HandshakeTimeout, WriteTimeout: cfg.Limits.WriteTimeout,
		ShutdownTimeout: cfg.Limits.ShutdownTimeout, MaxConnections: cfg.Limits.MaxConnections,
		MaxPerAddress: cfg.Limits.MaxPerAddress, ConnectionRate: cfg.Limits.ConnectionRate,
		StallTimeout: cfg.Limits.StallTimeout, ConfirmTimeout: cfg.Limits.ConfirmTimeout, WaitTimeout: cfg.Limits.WaitTimeout,
		HandoverTime: cfg.Limits.HandoverTimeout, LinkHeartbeat: cfg.Limits.LinkHeartbeat,
		LinksEach: cfg.Limits.LinksEach, MaxLinks: cfg.Limits.MaxLinks,
	}, d.node, log)
	return d, nil
}

// Run looks for the other proxies, makes sure of the shards, and serves clients until ctx
// is done. Then it ends in order.
func (d *Daemon) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	// What sessions need ends after them; the deferred calls run in this order.
	serving, end := context.WithCancel(context.Background())
	defer end()
	running.Go(func() { d.keeper.Run(serving) })
	running.Go(func() { d.cluster.Run(serving) })
	running.Go(func() { d.node.Run(serving) })
	accepting, stop := context.WithCancel(serving)
	running.Go(func() {
		select {
		case <-ctx.Done():
			d.node.Stop() // before clients are sent away: the others send nothing here any more
		case <-d.killed:
		case <-serving.Done():
		}
		stop()
	})
	if err := d.serveAdmin(serving, accepting, &running); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	if err := d.join(accepting); err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(accepting, d.cfg.Limits.DeclareTimeout)
	d.node.Start(starting)
	cancel()
	ln, err := net.Listen("tcp", d.cfg.Listen)
	if err != nil {
		return err
	}
	d.addr = ln.Addr().String()
	close(d.runs)
	d.log.Info("amqproxy runs", zap.String("version", d.version), zap.String("node", d.cfg.Node),
		zap.String("listen", d.addr), zap.String("broker", d.cfg.Broker), zap.String("admin", d.admin))
	err = d.server.Serve(accepting, ln)
	d.log.Info("amqproxy ends")
	return err
}

// serveAdmin begins to serve the admin listener, if there is to be one.
func (d *Daemon) serveAdmin(serving, accepting context.Context, running *sync.WaitGroup) error {
	if d.cfg.Admin.Listen == "" {
		return nil
	}
	ln, err := net.Listen("tcp", d.cfg.Admin.Listen)
	if err != nil {
		return err
	}
	d.admin = ln.Addr().String()
	h := admin.Handler(admin.Sources{
		Version: d.version, Node: d.cfg.Node, Broker: d.cfg.Broker,
		Ping:    func(ctx context.Context) error { return keeper.Ping(ctx, d.cfg.Broker) },
		Streams: d.node, Proxy: d.server, Draining: func() bool { return accepting.Err() != nil },
	})
	running.Go(func() {
		if err := admin.Serve(serving, ln, h); err != nil {
			d.log.Error("the admin listener failed", zap.Error(err))
		}
	})
	return nil
}

// join looks for the other proxies: one that hashed over its own shards alone
// would misplace keys.
func (d *Daemon) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Limits.JoinTimeout)
	defer cancel()
	found, err := d.cluster.Join(ctx)
	if err == nil && found > 0 {
		d.log.Info("joined the other proxies", zap.Int("answered", found))
	}
	return err
}

// Running is closed when clients are accepted.
func (d *Daemon) Running() <-chan struct{} { return d.runs }

// Addr is where clients connect, and Admin where the admin listener is, once Running is
// closed.
func (d *Daemon) Addr() string  { return d.addr }
func (d *Daemon) Admin() string { return d.admin }

// Gossip is where the other proxies find this one.
func (d *Daemon) Gossip() string { return d.cluster.Addr() }

// Node is what this amqproxy knows.
func (d *Daemon) Node() *node.Node { return d.node }

// Kill ends Run as SIGKILL ends a process, as far as that goes inside one: nobody is told
// anything, all sockets of clients, brokers and gossip close at once, and nothing is
// waited for. What differs: the kernel would close all in one moment, here sockets go one
// by one within about a millisecond; a session that has read a frame may still work on
// it, for sockets that are closed; and the state file is written once more.
func (d *Daemon) Kill() {
	d.kill.Do(func() {
		d.cluster.Drop()
		d.server.Cut()
		close(d.killed)
	})
}
