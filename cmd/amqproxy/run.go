package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"amqproxy/internal/config"
	"amqproxy/internal/daemon"
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

// serve runs an amqproxy until a signal comes.
func serve(cfg *config.Config) error {
	log, err := newLog(cfg.Log)
	if err != nil {
		return err
	}
	defer log.Sync()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	d, err := daemon.New(cfg, versionText(), log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer close(ended)
	waiting.Go(func() { awaitSignals(ended, signals, stop, log) })
	return d.Run(ctx)
}

// awaitSignals begins the end at the first signal, and makes it at the second.
func awaitSignals(ended <-chan struct{}, signals <-chan os.Signal, stop func(), log *zap.Logger) {
	select {
	case s := <-signals:
		log.Info("shutting down; a second signal ends at once", zap.Stringer("signal", s))
		stop()
	case <-ended:
		return
	}
	select {
	case s := <-signals:
		log.Warn("ended at once", zap.Stringer("signal", s))
		log.Sync()
		os.Exit(exitFailed)
	case <-ended:
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

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
