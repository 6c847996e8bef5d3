// Package fakebroker is a small AMQP 0-9-1 broker in memory: for trying amqproxy out
// without RabbitMQ, and for tests that need a broker that misbehaves on cue. It
// answers as RabbitMQ 3.10 does, with its reply codes and, nearly always, its words.
//
//	socket ─► conn (one reads) ─► channel ─► vhost: exchange ─► queue ─► consumer
//	socket ◄─ outbox (one writes) ◄───────────── confirms, returns, deliveries
//
// What it owns: a listener, its connections, and all that was declared and stored on
// it. One lock for each vhost guards everything in it; see vhost. A consumer that does
// not read has a bounded outbox, and everything else stays in its queue.
//
// On cue it nacks, returns, delays and reorders (SetFaults), freezes, blocks
// publishers, cuts its sockets, dies and comes back on the same address.
//
// What it must never do: import anything of ours but frame, or be taken for a product.
// Its honest limits:
//
//   - Nothing is on disk: what is stored is gone with the process, and all of it stays
//     in memory, durable or not. Kill forgets nothing, not even what is not durable.
//   - A malformed table in the arguments of a method is taken as far as it goes.
//   - There is no cluster, no management, no policy, and no permission: who is let in
//     may do everything.
//   - A quorum queue is taken and is a classic one: it has no leader to lose and no
//     delivery limit. A queue of type stream is refused with 540.
//   - Lazy queues are as others. x-max-priority is real.
//   - A confirm comes as soon as the message is in memory, so sooner than RabbitMQ's.
//   - A refused login ends at once, without the pause of 3 s that RabbitMQ makes.
//   - x-consistent-hash puts a key on another queue than RabbitMQ's plugin does. There
//     are no other plugins, and no amq.rabbitmq.reply-to.
//
// # The sink
//
// A Server that is a Sink keeps nothing but the names of queues: the far end of a proxy
// that is to be measured, so cheap for each message that the proxy is the bottleneck,
// or that is to be tested with thousands of clients. It lets everybody in, says yes to
// whatever is declared, swallows what is published and confirms it. None of the cues
// but Cut, Kill and Restart means anything to it. What a consumer gets is told by the
// arguments of its basic.consume:
//
//	x-flood     so many deliveries, made beforehand, as fast as they are taken; below 0 without end
//	x-size      octets in the body of each
//	x-exchange  what they say they were published to
//	x-echo      true: whatever is published on the connection is delivered to this consumer
//
// A mandatory message whose key says that it is a probe comes back, as from an
// exchange that nobody has bound by it.
package fakebroker
