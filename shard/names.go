package shard

import (
	"fmt"
	"strconv"
)

const bindingPrefix = "amqproxy:"

// MaxQueueName is the longest shard name in octets: its binding key has to fit a
// short string (255) too.
const MaxQueueName = 255 - len(bindingPrefix)

// QueueName is the name of a shard's queue: `stream: V - NODE - INDEX` with the
// default prefix.
func QueueName(prefix, stream, node string, index int) string {
	return prefix + stream + " - " + node + " - " + strconv.Itoa(index)
}

// BindingKey is the routing key by which a shard is bound to its exchange, and
// that a publish to it carries in its BCC header.
func BindingKey(queue string) string { return bindingPrefix + queue }

// LocalQueues are the names of one node's shards of a stream, by index. An error
// means that a name would be too long for the broker.
func LocalQueues(s *Settings, stream, node string) ([]string, error) {
	queues := make([]string, s.ShardsPerNode)
	for i := range queues {
		queues[i] = QueueName(s.QueuePrefix, stream, node, i)
	}
	if last := queues[len(queues)-1]; len(last) > MaxQueueName {
		return nil, fmt.Errorf("a shard's name would be %d bytes long, the most is %d: '%s'", len(last), MaxQueueName, last)
	}
	return queues, nil
}
