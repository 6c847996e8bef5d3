package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"amqproxy/internal/admin"
	"amqproxy/internal/config"
	"amqproxy/internal/keeper"
	"amqproxy/internal/node"
	"amqproxy/internal/proxy"
	"amqproxy/membership"
)

func runCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the proxy until SIGTERM or SIGINT; a second one ends it at once",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return failed(err)
			}
			if err := serve(cfg); err != nil {
				return failed(err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "the configuration file; without it, sensible defaults")
	return c
}

func checkCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration file without starting",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return failed(err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid: node %s, %d policies\n", file, cfg.Node, len(cfg.Streams.Policies))
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "the configuration file")
	c.MarkFlagRequired("config")
	return c
}

// serve builds everything in the order in which it depends on each other, and
// runs it until a signal comes.
func serve(cfg *config.Config) error {
	log, err := newLog(cfg.Log)
	if err != nil {
		return err
	}
	defer log.Sync()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	k := keeper.New(cfg.Broker)
	state, err := node.OpenState(filepath.Join(cfg.StateDir, "state.json"), cfg.Node)
	if err != nil {
		return err
	}
	cluster, err := membership.New(membership.Config{
		ID: state.Identity(), Node: cfg.Node, Remember: state.Remembered(), Passes: node.Passes,
		Listen: cfg.Gossip.Listen, Advertise: cfg.Gossip.Advertise, Join: cfg.Gossip.Join,
		Label: cfg.Gossip.Label, SecretKey: cfg.Gossip.Secret,
	}, log)
	if err != nil {
		return err
	}
	n := node.New(node.Config{
		Name: cfg.Node, ID: state.Identity(), Version: versionText(), Broker: cmp.Or(cfg.BrokerAdvertise, cfg.Broker), Rules: cfg.Rules, State: state,
		DeclareTimeout: cfg.Limits.DeclareTimeout, LostGrace: cfg.Limits.LostGrace,
	}, k, cluster, log)
	server := proxy.New(proxy.Config{
		Broker: cfg.Broker, LoopbackUsers: cfg.LoopbackUsers, FrameMax: cfg.Limits.FrameMax,
		HandshakeTimeout: cfg.Limits.HandshakeTimeout, WriteTimeout: cfg.Limits.WriteTimeout,
		ShutdownTimeout: cfg.Limits.ShutdownTimeout, MaxConnections: cfg.Limits.MaxConnections,
		MaxPerAddress: cfg.Limits.MaxPerAddress, ConnectionRate: cfg.Limits.ConnectionRate,
		StallTimeout: cfg.Limits.StallTimeout, ConfirmTimeout: cfg.Limits.ConfirmTimeout, WaitTimeout: cfg.Limits.WaitTimeout,
		HandoverTime: cfg.Limits.HandoverTimeout, LinkHeartbeat: cfg.Limits.LinkHeartbeat,
		LinksEach: cfg.Limits.LinksEach, MaxLinks: cfg.Limits.MaxLinks,
	}, n, log)

	var running sync.WaitGroup
	defer running.Wait()
	// What sessions need ends after them; the deferred calls run in this order.
	serving, end := context.WithCancel(context.Background())
	defer end()
	running.Go(func() { k.Run(serving) })
	running.Go(func() { cluster.Run(serving) })
	running.Go(func() { n.Run(serving) })
	adminAddr := ""
	if cfg.Admin.Listen != "" {
		ln, err := net.Listen("tcp", cfg.Admin.Listen)
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		adminAddr = ln.Addr().String()
		h := admin.Handler(admin.Sources{
			Version: versionText(), Node: cfg.Node, Broker: cfg.Broker, Ping: func(ctx context.Context) error { return keeper.Ping(ctx, cfg.Broker) },
			Streams: n, Proxy: server, Draining: func() bool { return ctx.Err() != nil },
		})
		running.Go(func() {
			if err := admin.Serve(serving, ln, h); err != nil {
				log.Error("the admin listener failed", zap.Error(err))
			}
		})
	}
	running.Go(func() { awaitSignals(serving, signals, func() { n.Stop(); stop() }, log) })

	if err := join(ctx, cluster, cfg.Limits.JoinTimeout, log); err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, cfg.Limits.DeclareTimeout)
	n.Start(starting)
	cancel()
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	log.Info("amqproxy runs", zap.String("version", versionText()), zap.String("node", cfg.Node),
		zap.Stringer("listen", ln.Addr()), zap.String("broker", cfg.Broker), zap.String("admin", adminAddr))
	err = server.Serve(ctx, ln)
	log.Info("amqproxy ends")
	return err
}

// join looks for the other proxies: one that hashed over its own shards alone
// would misplace keys.
func join(ctx context.Context, cluster *membership.Cluster, timeout time.Duration, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	found, err := cluster.Join(ctx)
	if err == nil && found > 0 {
		log.Info("joined the other proxies", zap.Int("answered", found))
	}
	return err
}

// awaitSignals begins the end at the first signal, and makes it at the second.
func awaitSignals(ctx context.Context, signals <-chan os.Signal, stop func(), log *zap.Logger) {
	select {
	case s := <-signals:
		log.Info("shutting down; a second signal ends at once", zap.Stringer("signal", s))
		stop()
	case <-ctx.Done():
		return
	}
	select {
	case s := <-signals:
		log.Warn("ended at once", zap.Stringer("signal", s))
		log.Sync()
		os.Exit(exitFailed)
	case <-ctx.Done():
	}
}

// newLog writes to standard error: lines for a person at a terminal, JSON
// otherwise.
func newLog(cfg config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Level.String())
	if err != nil {
		return nil, err
	}
	c := zap.NewProductionConfig()
	c.Level = zap.NewAtomicLevelAt(level)
	c.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	c.Sampling = nil
	c.DisableStacktrace, c.DisableCaller = true, true
	if cfg.Format == "console" || cfg.Format == "auto" && isTerminal(os.Stderr) {
		c.Encoding = "console"
		c.EncoderConfig.EncodeLevel = zapcore.CapitalLevelEncoder
	}
	return c.Build()
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
