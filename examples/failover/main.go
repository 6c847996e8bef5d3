// Command failover shows what an application has of consumers: ordered, where it would
// otherwise make partitions by hand: two producers send messages with the keys a to h, and
// consumers that come, end and are killed read them from one queue. At any time each key is at
// one consumer, which can keep what it knows of the key in its memory. Nothing is lost, and
// what a killed consumer has not acknowledged comes again, flagged, and before anything later.
//
// Without flags it starts three brokers in memory with an amqproxy beside each. With -urls it
// uses the proxies of a running installation, and kills none of them.
//
//	scenario.go   what happens, step by step
//	consumer.go producer.go   the application: processes of their own, so that they can be killed
//	events.go     how they tell what they do
//	account.go    what became of every message and every key
//	own.go        the three brokers and proxies
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

// run is one of the processes of the application, or all of the scenario.
func run() error {
	if len(os.Args) > 4 {
		role, name, stream, urls := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
		switch role {
		case "consumer":
			return consume(name, stream, urls)
		case "producer":
			return produce(name, stream, urls)
		}
	}
	var urls, stream, binary string
	flag.StringVar(&urls, "urls", "", "the AMQP URLs of three running proxies, with commas between")
	flag.StringVar(&stream, "stream", "orders.failover", "the name of the stream, whose definition has consumers: ordered")
	flag.StringVar(&binary, "proxy", "bin/amqproxy", "the amqproxy binary, to start three of them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := &scenario{stream: stream}
	if urls != "" {
		s.urls = strings.Split(urls, ",")
		return errors.Join(s.play(ctx), s.close())
	}
	var err error
	if s.own, err = startOwn(ctx, binary); err == nil {
		s.urls = s.own.urls()
		err = s.play(ctx)
	}
	return errors.Join(err, s.close(), s.own.close())
}
