// Command demo shows a stream at work: it starts three RabbitMQ nodes in a cluster and an amqproxy
// beside each, all on loopback ports of their own, kills one of the brokers and brings it back, and
// shows where the messages of each key are meanwhile. It uses an ordinary client library. It checks
// what amqproxy promises, fails if a promise is broken, and cleans up behind itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"amqproxy/test/broker"
)

const (
	stream    = "shard.logs"
	nodes     = 3
	perNode   = 2 // shards
	keys      = 3000
	victim    = nodes - 1        // the node whose broker is killed
	quietTime = 15 * time.Second // without a message the consumers give up
)

func main() {
	var d demo
	flag.StringVar(&d.binary, "proxy", "bin/amqproxy", "the amqproxy binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := errors.Join(d.run(ctx), d.close()); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is what runs, and what has been published and found so far.
type demo struct {
	binary    string
	brokers   []*broker.Node
	proxies   []*proxy
	confirmed int
	places    []map[int]shard // by round of publishing: the shard that each key is in
}

func (d *demo) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{d.start, d.declare, d.loseBroker, d.regainBroker, d.consume} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) start(ctx context.Context) (err error) {
	fmt.Printf("Starting a RabbitMQ cluster of %d nodes, which takes 10 to 20 s, and an amqproxy beside each.\n", nodes)
	if d.brokers, err = broker.StartCluster(ctx, nodes, broker.Options{Name: "rabbit"}); err != nil {
		return err
	}
	rows := [][]any{{"node", "RabbitMQ", "amqproxy for clients", "amqproxy's own view"}}
	var join []string
	for _, b := range d.brokers {
		p, err := startProxy(ctx, d.binary, b, join)
		if err != nil {
			return err
		}
		d.proxies = append(d.proxies, p)
		gossip, err := p.gossip(ctx)
		if err != nil {
			return err
		}
		join = append(join, gossip)
		rows = append(rows, []any{b.Name(), b.Addr(), p.addr, "http://" + p.admin + "/api/v1/shards"})
	}
	table(rows)
	return nil
}

func (d *demo) declare(ctx context.Context) error {
	if err := declare(d.proxies[0]); err != nil {
		return err
	}
	fmt.Printf("\nDeclared exchange '%s' at the first amqproxy, which made %d queues for it on each node.\n", stream, perNode)
	if _, err := agree(ctx, nodes*perNode, d.proxies...); err != nil {
		return err
	}
	if err := d.publish(ctx, nodes); err != nil {
		return err
	}
	held := map[shard]int{}
	for _, s := range d.places[0] {
		held[s]++
	}
	rows := [][]any{{"queue", "keys"}}
	for _, s := range shards(0, nodes) {
		rows = append(rows, []any{s.queue(d.brokers), held[s]})
	}
	table(rows)
	return nil
}

func (d *demo) loseBroker(ctx context.Context) error {
	b := d.brokers[victim]
	if err := b.Sync(ctx); err != nil { // or RabbitMQ may lose queues that are younger than 2 s
		return err
	}
	b.Kill()
	took, err := agree(ctx, victim*perNode, d.proxies[:victim]...)
	if err != nil {
		return err
	}
	fmt.Printf("\nKilled RabbitMQ on %s with kill -9. %s later the others sent nothing to its queues.\n", b.Name(), took)
	if err := d.publish(ctx, victim); err != nil {
		return err
	}
	return d.checkMoves()
}

// checkMoves shows which keys are elsewhere than they were first: the dead node's and no others.
func (d *demo) checkMoves() error {
	moves, owned, foreign := map[[2]shard]int{}, 0, 0
	for key, was := range d.places[0] {
		is := d.places[1][key]
		moves[[2]shard{was, is}]++
		if was.node == victim {
			owned++
		} else if is != was {
			foreign++
		}
	}
	fmt.Printf("Moved: all %d keys of %s, and %d of the others.\n", owned, d.brokers[victim].Name(), foreign)
	rows := [][]any{{"from"}}
	for _, to := range shards(0, victim) {
		rows[0] = append(rows[0], "to "+to.short(d.brokers))
	}
	for _, from := range shards(victim, nodes) {
		row := []any{from.short(d.brokers)}
		for _, to := range shards(0, victim) {
			row = append(row, moves[[2]shard{from, to}])
		}
		rows = append(rows, row)
	}
	table(rows)
	if foreign > 0 {
		return fmt.Errorf("%d keys moved that had no reason to", foreign)
	}
	return nil
}

func (d *demo) regainBroker(ctx context.Context) error {
	fmt.Printf("\nStarting RabbitMQ on %s again, which takes 5 to 10 s.\n", d.brokers[victim].Name())
	if err := d.brokers[victim].Boot(ctx); err != nil {
		return err
	}
	took, err := agree(ctx, nodes*perNode, d.proxies...)
	if err != nil {
		return err
	}
	fmt.Printf("It runs, and %s later all sent to its queues again.\n", took)
	if err := d.publish(ctx, nodes); err != nil {
		return err
	}
	away := 0
	for key, was := range d.places[0] {
		if d.places[2][key] != was {
			away++
		}
	}
	fmt.Printf("Returned: %d of %d keys are in the same queue as at first.\n", keys-away, keys)
	if away > 0 {
		return fmt.Errorf("%d keys did not return", away)
	}
	return nil
}

// publish publishes every key once more, through the first so many proxies, and finds the messages.
func (d *demo) publish(ctx context.Context, through int) (err error) {
	round := len(d.places)
	confirmed, err := publish(ctx, round, d.proxies[:through])
	if err != nil {
		return err
	}
	d.confirmed += confirmed
	fmt.Printf("\nPublished %d messages, one with each key, through %d of the proxies: %d confirmed.\n", keys, through, confirmed)
	place, err := find(ctx, round, d.brokers[:through])
	d.places = append(d.places, place)
	if err == nil && (confirmed < keys || len(place) < keys) {
		err = fmt.Errorf("of %d messages %d were confirmed, and %d are in a queue", keys, confirmed, len(place))
	}
	return err
}

func (d *demo) consume(ctx context.Context) error {
	arrivals, err := consume(ctx, d.proxies, d.confirmed)
	if err != nil {
		return err
	}
	seen, at, astray := map[message]bool{}, make([]int, nodes), 0
	for _, a := range arrivals {
		seen[a.message] = true
		at[a.node]++
		if d.places[a.round][a.key].node != a.node {
			astray++
		}
	}
	fmt.Printf("\nConsumed from '%s' as if it were one queue, at each amqproxy with %d consumers.\n", stream, perNode)
	rows := [][]any{{"at", "messages"}}
	for i, n := range at {
		rows = append(rows, []any{d.brokers[i].Name(), n})
	}
	table(rows)
	lost := d.confirmed - len(seen)
	fmt.Printf("\nPublished %d, confirmed %d, received %d, repeated %d, lost %d.\n",
		len(d.places)*keys, d.confirmed, len(seen), len(arrivals)-len(seen), lost)
	if lost > 0 || astray > 0 {
		return fmt.Errorf("%d messages are lost, %d came from another node than they were on", lost, astray)
	}
	fmt.Println("Nothing confirmed was lost, no key moved without need, and all returned.")
	return nil
}

func (d *demo) close() (err error) {
	for _, p := range d.proxies {
		err = errors.Join(err, p.close())
	}
	for _, b := range d.brokers {
		err = errors.Join(err, b.Close())
	}
	return err
}

// table prints rows, the first of which is the head, in columns.
func table(rows [][]any) {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for _, cell := range row {
			fmt.Fprintf(w, "\t%v", cell)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}
