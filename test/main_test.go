// Package test holds what needs processes: end to end tests of the real binary on
// real RabbitMQ nodes that the tests start themselves, and some on the embedded broker.
package test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"amqproxy/test/broker"
)

// rabbit is the broker that tests share. Each test has a vhost of its own on it,
// made with rabbit.VHost(t); a test that stops or changes the broker starts one
// for itself.
var rabbit *broker.Node

// embedded is for a machine without RabbitMQ, or for who has no time: of the tests that
// are chosen, those are run that need none, and none is started.
var embedded = flag.Bool("embedded", false, "run the tests that need no RabbitMQ, and no others")

func TestMain(m *testing.M) {
	flag.Parse()
	// What is built with the race detector sleeps for a second when it ends, which hundreds of
	// proxies do here. A race is reported where it happens.
	os.Setenv("GORACE", "atexit_sleep_ms=20 "+os.Getenv("GORACE"))
	if *embedded {
		flag.Set("test.run", "^Test(Embedded|CLI|Imports|Parity|Security)")
		flag.Set("test.skip", "^TestEmbedded(Conformance|Suite)$|^TestCLIStatus") // these use RabbitMQ, or take long
		os.Exit(m.Run())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	node, err := broker.Start(context.Background(), broker.Options{Config: "vm_memory_high_watermark.absolute = 4GB"}) // for large messages
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
