// Package test holds what needs processes: end to end tests of the real binary on
// real RabbitMQ nodes that the tests start themselves.
package test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"amqproxy/test/broker"
)

// rabbit is the broker that tests share. Each test has a vhost of its own on it,
// made with rabbit.VHost(t); a test that stops or changes the broker starts one
// for itself.
var rabbit *broker.Node

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	node, err := broker.Start(context.Background(), broker.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "no RabbitMQ, no end to end tests:", err)
		return 1
	}
	rabbit = node
	defer node.Close()
	defer inCluster.close()
	defer apart.close()
	return m.Run()
}
