package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"amqproxy/internal/demo"
)

func demoCommand() *cobra.Command {
	var script bool
	var log string
	c := &cobra.Command{
		Use:   "demo",
		Short: "See a stream over three brokers in memory lose and regain a broker, a proxy and a consumer",
		Long: `Run three brokers in memory and three proxies on loopback, with a stream, producers
and consumers; kill a broker, a proxy and a consumer, bring them back, and show which keys
and shards move, and that nothing is lost. Any AMQP client can join in while it runs.

Where the output is no terminal, or with --script, the story is told once as plain text.
The exit code is 1 if a promise was broken.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			logger, err := demoLog(log)
			if err != nil {
				return failed(err)
			}
			defer logger.Sync()
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err = demo.Run(ctx, demo.Options{Version: versionText(), Log: logger, Out: c.OutOrStdout(),
				Script: script || !isTerminal(os.Stdout) || !isTerminal(os.Stdin)})
			switch {
			case errors.Is(err, context.Canceled):
				return failed(errors.New("interrupted"))
			case err != nil:
				return failed(err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&script, "script", false, "tell the story once, as plain text")
	c.Flags().StringVar(&log, "log", "", "a file for what the proxies log")
	return c
}

// demoLog writes what the proxies log to a file; they kill each other's sockets all the
// time, and say so.
func demoLog(file string) (*zap.Logger, error) {
	if file == "" {
		return zap.NewNop(), nil
	}
	c := zap.NewProductionConfig()
	c.OutputPaths = []string{file}
	c.DisableStacktrace, c.DisableCaller, c.Sampling = true, true, nil
	return c.Build()
}
