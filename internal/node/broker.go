package node

import (
	"context"
	"time"

	"go.uber.org/zap"

	"amqproxy/internal/keeper"
	"amqproxy/membership"
)

const (
	// A broker that fails twice in a row is down. One that has died refuses the
	// connection, and the others hear of it within 2 s; one that is merely slow has
	// longer to answer.
	pingEvery   = 500 * time.Millisecond
	pingTimeout = 1500 * time.Millisecond
	pingsToFail = 2
)

// watchBrokers asks whether this node's broker answers, and those of nodes that
// are silent, until ctx is done.
func (n *Node) watchBrokers(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.homeAnswers(ctx, n.answers(ctx, n.cfg.Name, n.keeper.Broker()))
		for node, broker := range n.lostBrokers() {
			n.lostAnswers(node, n.answers(ctx, node, broker))
		}
		n.mu.Lock()
		n.askBesides(time.Now())
		n.mu.Unlock()
		n.watchLeaders(ctx, time.Now())
	}
}

// answers pings a broker and says whether it counts as up.
func (n *Node) answers(ctx context.Context, node, broker string) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if keeper.Ping(ctx, broker) == nil {
		n.silent[node] = 0
	} else {
		n.silent[node]++
	}
	return n.silent[node] < pingsToFail
}

// firstPing looks for the broker before the others hear that this node is there:
// they use the shards of one that starts, as if it had been away for a moment.
func (n *Node) firstPing() {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	if keeper.Ping(ctx, n.keeper.Broker()) != nil {
		n.log.Warn("the broker does not answer: its shards are used when it does", zap.String("broker", n.keeper.Broker()))
		n.silent[n.cfg.Name] = pingsToFail
		n.condition = BrokerDown
	}
}

// homeAnswers tells everybody when this node's broker goes and when it is back
// with its shards.
func (n *Node) homeAnswers(ctx context.Context, up bool) {
	n.mu.Lock()
	was := n.condition
	switch {
	case ctx.Err() != nil:
		n.mu.Unlock()
		return
	case was == Running && !up:
		n.log.Error("the broker does not answer: its shards leave the tables", zap.String("broker", n.keeper.Broker()))
		n.condition = BrokerDown
		n.tellCondition()
	}
	n.mu.Unlock()
	switch {
	case was == Running && !up:
		n.reconcile()
	case was == BrokerDown && up:
		n.comeBack(ctx)
	}
}

// comeBack makes sure of all shards before they are used again.
func (n *Node) comeBack(ctx context.Context) {
	for _, s := range n.wanted() {
		ctx, cancel := context.WithTimeout(ctx, n.cfg.DeclareTimeout)
		err := n.ensure(ctx, s)
		cancel()
		if err != nil {
			n.log.Warn("the broker answers, but is not ready yet", zap.Error(err))
			return
		}
	}
	n.mu.Lock()
	if n.condition == BrokerDown {
		n.log.Info("the broker is back: its shards are in the tables again", zap.String("broker", n.keeper.Broker()))
		n.condition = Running
		n.tellCondition()
	}
	n.mu.Unlock()
	n.reconcile()
}

// lostBrokers are the brokers of nodes that are silent.
func (n *Node) lostBrokers() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	lost := map[string]string{}
	for node, m := range n.members {
		if m.presence == membership.Lost && m.broker != "" && node != n.cfg.Name {
			lost[node] = m.broker
		}
	}
	for node := range n.dead {
		if _, still := lost[node]; !still {
			delete(n.dead, node)
		}
	}
	return lost
}

func (n *Node) lostAnswers(node string, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead[node] == up {
		n.dead[node] = !up
		n.republish()
	}
}
