package main

import (
	"fmt"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"amqproxy/internal/config"
	"amqproxy/internal/fakebroker"
)

// devConfig is what `amqproxy dev` runs with when it is given no file.
const devConfig = `
definitions:
  dev: {shards-per-node: 3}
policies:
  - {name: dev, pattern: '^shard\.', vhost: "*", stream-definition: dev}
log: {level: warn}
`

func devCommand() *cobra.Command {
	var file, listen, admin string
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run the proxy with a broker of its own in memory, for developing without RabbitMQ",
		Long: `Run the proxy with a broker of its own in memory, for developing and testing
applications without RabbitMQ. It keeps nothing: all messages are gone when it ends.

Without a configuration file, exchanges whose names begin with "shard." are streams of
three shards. Of a file, the definitions, policies and limits hold.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Parse("dev", []byte(devConfig))
			if file != "" {
				cfg, err = config.Load(file)
			}
			if err != nil {
				return failed(err)
			}
			cfg.Node, cfg.Listen, cfg.Admin.Listen, cfg.Gossip = "dev@localhost", listen, admin, config.Gossip{}
			if err := dev(cfg, func() {
				fmt.Fprintf(c.OutOrStdout(), "amqp://guest:guest@%s/ is a broker in memory with an amqproxy before it.\n"+
					"It keeps nothing: all of it is gone when this ends.\n", listen)
			}); err != nil {
				return failed(err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "a configuration file")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:5672", "where clients connect")
	c.Flags().StringVar(&admin, "admin", "127.0.0.1:15670", "where status and metrics are")
	return c
}

// dev runs a proxy before a broker in memory.
func dev(cfg *config.Config, say func()) (err error) {
	broker, err := fakebroker.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() { broker.Serve() }) // it ends with Close, and gives nil then
	defer serving.Wait()
	defer broker.Close()
	cfg.Broker, cfg.BrokerAdvertise = broker.Addr(), ""
	if cfg.StateDir, err = os.MkdirTemp("", "amqproxy-dev-"); err != nil {
		return err
	}
	defer os.RemoveAll(cfg.StateDir)
	say()
	return serve(cfg)
}
