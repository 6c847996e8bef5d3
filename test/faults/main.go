package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	rounds, kills int
	rate          int // messages in a second
	seed          uint64
	only          *regexp.Regexp
	short, plugin bool
	apart         bool // the brokers are in no cluster
	groups        bool // the consumers are an ordered group
	definition    string
	json, proxy   string
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "half" {
		fmt.Fprintln(os.Stderr, "half a client:", beHalf(os.Args[2], os.Args[3])) // which waits to be killed
		os.Exit(1)
	}
	o, err := readOptions()
	if err == nil {
		err = start(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func readOptions() (o options, err error) {
	var only string
	flag.IntVar(&o.rounds, "rounds", 1, "how often every fault is run")
	flag.IntVar(&o.kills, "kills", 0, "how often a broker is killed, if that is more")
	flag.IntVar(&o.rate, "rate", 3000, "messages in a second, while nothing is struck")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "what all choices follow from")
	flag.StringVar(&only, "only", "", "a regular expression: only the faults that match")
	flag.BoolVar(&o.short, "short", false, "only the faults that are quick to run")
	flag.BoolVar(&o.plugin, "plugin", false, "run the faults against the plugin too")
	flag.BoolVar(&o.apart, "apart", false, "three brokers that are in no cluster")
	flag.BoolVar(&o.groups, "groups", false, "the consumers are an ordered group, over all proxies, and messages wait for a broker that is down")
	flag.StringVar(&o.definition, "definition", "", "the options of the stream's definition, as in 'on-unavailable: wait, retry-nacked: true'")
	flag.StringVar(&o.json, "json", "", "where every run's figures go")
	flag.StringVar(&o.proxy, "proxy", "bin/amqproxy", "the amqproxy binary")
	flag.Parse()
	if o.rate < 1 {
		return o, errors.New("nothing is published at that rate")
	}
	if o.apart && o.plugin {
		return o, errors.New("the plugin needs a cluster")
	}
	if o.groups && o.plugin {
		return o, errors.New("the plugin has no groups")
	}
	if o.groups {
		o.definition = strings.TrimSuffix("consumers: ordered, on-unavailable: wait, "+o.definition, ", ")
	}
	o.only, err = regexp.Compile(only)
	return o, err
}

func start(o options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runs := o.runs()
	if len(runs) == 0 {
		return errors.New("no fault matches")
	}
	fmt.Fprintf(os.Stderr, "%d runs with seed %d, after the start of three brokers and three proxies\n", len(runs), o.seed)
	w, err := newWorld(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	r := w.all(ctx, o, runs) // what was counted until then is told all the same
	r.table(os.Stdout)
	return errors.Join(r.write(o.json), r.verdict())
}
