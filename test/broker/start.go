package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options say how to start a node or a cluster. The zero value is a good node.
type Options struct {
	// Name is the part of the node's name before "@localhost"; the nodes of a cluster get "-1",
	// "-2" and so on behind it. Empty means a unique one.
	Name string
	// Plugins are enabled on every node. rabbitmq_management and rabbitmq_prometheus get a port of
	// their own (see Node.PluginAddr); any other plugin that listens needs a port through Config.
	Plugins []string
	// Config is more lines of rabbitmq.conf; where they set what this package sets, they win.
	Config string
	// Dir holds all files and survives Close, so that the same Name in the same Dir finds its data
	// again. Empty means a temporary directory that Close removes.
	Dir string
}

// Start starts one node and returns once it serves AMQP.
func Start(ctx context.Context, o Options) (*Node, error) {
	if o.Name == "" {
		o.Name = uniqueName()
	}
	nodes, err := start(ctx, o, []string{o.Name})
	if err != nil {
		return nil, err
	}
	return nodes[0], nil
}

// StartCluster starts count nodes that form one cluster and returns once all of them serve AMQP
// and know each other. The first node is the one the others join at their first boot, and join
// again should a test reset them.
func StartCluster(ctx context.Context, count int, o Options) ([]*Node, error) {
	if count < 1 {
		return nil, fmt.Errorf("broker: a cluster of %d nodes", count)
	}
	if o.Name == "" {
		o.Name = uniqueName()
	}
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", o.Name, i+1)
	}
	o.Config = fmt.Sprintf("cluster_formation.peer_discovery_backend = classic_config\n"+
		"cluster_formation.classic_config.nodes.1 = %s@localhost\n", names[0]) + o.Config
	return start(ctx, o, names)
}

// StartApart starts count brokers that know nothing of each other, side by side.
func StartApart(ctx context.Context, count int, o Options) ([]*Node, error) {
	if o.Name == "" {
		o.Name = uniqueName()
	}
	nodes, failed := make([]*Node, count), make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		one := o
		one.Name = fmt.Sprintf("%s-%d", o.Name, i+1)
		all.Go(func() { nodes[i], failed[i] = Start(ctx, one) })
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, errors.Join(err, closeAll(slices.DeleteFunc(nodes, func(n *Node) bool { return n == nil })))
	}
	return nodes, nil
}

func uniqueName() string { return "broker-" + strings.ToLower(rand.Text()[:8]) }

func start(ctx context.Context, o Options, names []string) ([]*Node, error) {
	h, err := openHome(ctx, o.Dir, len(names))
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	nodes := make([]*Node, len(names))
	for i, name := range names {
		nodes[i] = &Node{name: name + "@localhost", home: h}
	}
	err = prepareAll(nodes, o)
	if err == nil {
		err = bootAll(ctx, nodes)
	}
	if err != nil {
		return nil, errors.Join(err, closeAll(nodes))
	}
	return nodes, nil
}

func prepareAll(nodes []*Node, o Options) error {
	for _, n := range nodes {
		if err := n.prepare(o); err != nil {
			return fmt.Errorf("broker: prepare %s: %w", n.name, err)
		}
	}
	return nil
}

// bootAll boots the first node, so that there is one to join, and then the others side by side.
func bootAll(ctx context.Context, nodes []*Node) error {
	if err := nodes[0].Boot(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make([]error, len(nodes))
	var booting sync.WaitGroup
	for i, n := range nodes[1:] {
		booting.Go(func() {
			if failed[i] = n.Boot(ctx); failed[i] != nil {
				cancel()
			}
		})
	}
	booting.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return awaitMembers(ctx, nodes)
}

// awaitMembers makes sure of the cluster: a node that can't join starts all the same, alone.
func awaitMembers(ctx context.Context, nodes []*Node) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, n := range nodes {
		var members string
		var failed error
		err := await(ctx, n.current(), func(ctx context.Context) bool {
			members, failed = n.Eval(ctx, "length(rabbit_mnesia:cluster_nodes(running))")
			return members == strconv.Itoa(len(nodes))
		})
		if err != nil {
			return fmt.Errorf("broker: %s sees %q of %d cluster members: %w\n%s",
				n.name, members, len(nodes), errors.Join(err, failed), n.LogTail())
		}
	}
	return nil
}

func closeAll(nodes []*Node) error {
	var failed []error
	for _, n := range nodes {
		failed = append(failed, n.Close())
	}
	return errors.Join(failed...)
}
