package node

import (
	"encoding/json"
	"net/url"
	"strings"

	"amqproxy/membership"
	"amqproxy/shard"
)

// The keys of facts. VHOST and V are path-escaped, NODE is as configured.
//
//	node/NODE             nodeFact, set by the node
//	stream/VHOST/V        streamFact, set by whoever declares it; deleted with its exchange
//	shards/VHOST/V/NODE   shardsFact, set by the node when its shards are ready
//	consumers/VHOST/V/NODE  consumersFact, set by the node while it has consumers of the group
//	holds/VHOST/V/NODE    holdsFact, set by the node while shards of anybody retire
func nodeKey(node string) string { return "node/" + node }

func streamKey(n shard.Name) string {
	return "stream/" + url.PathEscape(n.VHost) + "/" + url.PathEscape(n.Stream)
}

func shardsKey(n shard.Name, node string) string { return nodesKey("shards", n, node) }
func holdsKey(n shard.Name, node string) string  { return nodesKey("holds", n, node) }

func nodesKey(kind string, n shard.Name, node string) string {
	return kind + "/" + url.PathEscape(n.VHost) + "/" + url.PathEscape(n.Stream) + "/" + url.PathEscape(node)
}

// parseKey reads a key about a stream; node is "" in one of the stream itself.
func parseKey(key string) (kind string, n shard.Name, node string, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) < 3 || len(parts) > 4 {
		return "", n, "", false
	}
	for i, p := range parts {
		u, err := url.PathUnescape(p)
		if err != nil {
			return "", n, "", false
		}
		parts[i] = u
	}
	if len(parts) == 4 {
		node = parts[3]
	}
	return parts[0], shard.Name{VHost: parts[1], Stream: parts[2]}, node, true
}

// Condition is what a node says of itself.
type Condition string

const (
	Starting   Condition = "starting"    // it has not made sure of its shards yet
	Running    Condition = "running"     // its broker answers and its shards are ready
	BrokerDown Condition = "broker down" // its broker does not answer
	Stopping   Condition = "stopping"    // it is about to end
)

type nodeFact struct {
	ID        string    `json:"id"` // the proxy's gossip identity
	Condition Condition `json:"condition"`
	Broker    string    `json:"broker"` // host:port at which others reach its broker
	Version   string    `json:"version,omitempty"`
}

type streamFact struct {
	Born      string `json:"born"` // tells this life of the stream from one before its deletion
	Type      string `json:"type,omitempty"`
	Durable   bool   `json:"durable,omitempty"`
	HashOn    string `json:"hash_on,omitempty"`
	Destroyed bool   `json:"destroyed,omitempty"` // queue.delete took its shards; a declare makes them again
}

func (f streamFact) declared() shard.Declared {
	d := shard.Declared{Type: f.Type, Durable: f.Durable}
	if f.HashOn != "" {
		d.HashOn, _ = shard.ParseHashOn(f.HashOn) // unset if a newer proxy knows more
	}
	return d
}

type shardsFact struct {
	Born    string        `json:"born"` // the life of the stream that they are bound for
	Shards  []shardFact   `json:"shards"`
	Retired []retiredFact `json:"retired,omitempty"`
}

// retiredFact is a shard that takes no messages any more.
type retiredFact struct {
	Queue  string `json:"queue"`
	Quorum bool   `json:"quorum,omitempty"` // as those of shardFact
	Single bool   `json:"single,omitempty"`
	// Closing is set when it was empty: nobody is to read it through its stream any
	// more. It tells this time of closing from others: a message may come back.
	Closing string `json:"closing,omitempty"`
}

// holdsFact says what the sessions of a node have to do with retired shards.
type holdsFact struct {
	// Left are those that all sessions know of: they send them nothing more.
	Left []string `json:"left"`
	// Free are those that close, by what retiredFact says of that, of which no session
	// has a consumer or an unacknowledged delivery, or will have.
	Free map[string]string `json:"free"`
}

type shardFact struct {
	Queue  string `json:"queue"`
	Weight uint32 `json:"weight"`
	// Quorum: any broker of the cluster serves it, while it has a leader.
	Quorum bool `json:"quorum,omitempty"`
	// Single: it serves one of its consumers at a time.
	Single bool `json:"single,omitempty"`
}

// read decodes the live fact of a key; false if there is none.
func read[T any](st *membership.State, key string) (v T, ok bool) {
	f, known := st.Facts[key]
	if !known || f.Deleted() {
		return v, false
	}
	return v, json.Unmarshal(f.Value, &v) == nil
}
