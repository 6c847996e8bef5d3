// Command faults breaks things under load and counts what became of every message:
// on a cluster of three RabbitMQ nodes with an amqproxy beside each, and, to
// compare, with the same load on an exchange of the rabbitmq_sharding plugin. It
// fails if a message that was acked through amqproxy never arrived.
//
// It owns all that it starts, on ports of its own, and takes it down. The clients
// are ordinary ones of amqp091-go. A publisher sends persistent messages, whose body
// says which they are, waits for no confirm but for room in its window, and sends
// none twice. A consumer acks every message by itself, and is the only one of its
// shard, so that the order in which it gets messages is that of the shard.
//
//	main.go       flags
//	fault.go      the faults, as data; actions.go: what is done to the victim
//	matrix.go     which runs there are, and the line that repeats one
//	run.go        one run: load, fault, repair, drain, count
//	traffic.go publisher.go consumer.go group.go half.go   the clients
//	record.go     what became of each message; lost.go: where the lost ones were going
//	gaps.go       how long confirms did not come
//	world.go proxy.go view.go count.go repair.go   what runs, and what it says of itself
//	path.go       the two ways to a stream: through.go is amqproxy, plugin.go the plugin
//	report.go     the table, the JSON
//
// With -groups the consumers are an ordered group over all proxies, with some that stand
// by: whoever reads a shard, the messages of each key have to come in order.
//
// A message counts as lost if it was acked, did not come back, and was not delivered
// until all queues were empty. What one who deletes a shard with messages in it loses
// is his doing: the fault deletes a shard at a moment at which it is empty, and what was
// published to it before the delete was done is counted apart, as "with shard".
package main
