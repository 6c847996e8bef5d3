package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"amqproxy/internal/fakebroker"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "sink" {
		if err := serveSink(); err != nil {
			fmt.Fprintln(os.Stderr, "sink:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// serveSink is the process that the measurements on the sink end at.
func serveSink() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := fakebroker.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Sink = true
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	fmt.Println(s.Addr())
	return s.Serve()
}

// options are the flags.
type options struct {
	proxy, json, svg, only, paths string
	rounds, threads, conns        int
	duration                      time.Duration
	short, list                   bool
}

func readOptions() options {
	var o options
	flag.StringVar(&o.proxy, "proxy", "bin/amqproxy", "the amqproxy binary")
	flag.StringVar(&o.json, "json", "bin/bench.json", "where the figures go")
	flag.StringVar(&o.svg, "svg", "", "the directory where the plots go; that of the figures if empty")
	flag.StringVar(&o.only, "only", "", "a regular expression: only the scenarios that match")
	flag.StringVar(&o.paths, "paths", "", "the same for paths: direct, haproxy, amqproxy, \"amqproxy, stream\" or \"amqproxy, links\"")
	flag.IntVar(&o.rounds, "rounds", 5, "how often everything is measured; on RabbitMQ at least 9 times")
	flag.IntVar(&o.threads, "threads", 1, "of each proxy (nbthread, GOMAXPROCS); 0 is what each does by itself")
	flag.IntVar(&o.conns, "connections", 4, "how many publish or consume at once")
	flag.DurationVar(&o.duration, "duration", time.Second, "of one measurement")
	flag.BoolVar(&o.short, "short", false, "one short round, to see that it works: its figures mean nothing")
	flag.BoolVar(&o.list, "list", false, "list the scenarios and end")
	flag.Parse()
	return o
}

func run() (err error) {
	o := readOptions()
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	paths, err := regexp.Compile(o.paths)
	if err != nil {
		return err
	}
	b := &bench{rounds: o.rounds, connections: o.conns, duration: o.duration, settle: 2 * time.Second, leakCycles: 100_000,
		short: o.short, only: only, paths: paths, say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	if o.short {
		b.rounds, b.connections, b.duration, b.settle, b.leakCycles = 1, 1, 50*time.Millisecond, 100*time.Millisecond, 500
	}
	chosen := b.chosen()
	if o.list {
		for _, s := range chosen {
			fmt.Println(s.name())
		}
		return nil
	}
	if len(chosen) == 0 {
		return errors.New("no scenario matches")
	}
	return b.all(o, chosen)
}

// all starts what is needed, and measures and tells.
func (b *bench) all(o options, chosen []scenario) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	if b.setup, err = start(ctx, o.proxy, o.threads, chosen, b.say); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.setup.close()) }()
	failed := b.run(ctx, chosen) // what was measured until then is told all the same
	return errors.Join(failed, b.tell(o, chosen, began))
}

// tell prints and writes what was measured.
func (b *bench) tell(o options, chosen []scenario, began time.Time) error {
	r := b.report(began, o.threads, b.figures.judge(append(goals(), idleGoals(chosen)...)))
	r.table(os.Stdout, chosen)
	r.verdicts(os.Stdout)
	if err := r.write(o.json); err != nil {
		return err
	}
	if o.svg == "" {
		o.svg = filepath.Dir(o.json)
	}
	return r.plots(o.svg)
}
