// Package fakebroker is a broker that keeps nothing but the names of queues: the far
// end of a proxy that is to be measured, so cheap for each message that the proxy is
// the bottleneck, or that is to be tested with thousands of clients.
//
// It lets everybody in, says yes to whatever is declared, swallows what is
// published and confirms it. What a consumer gets is told by the arguments of its
// basic.consume:
//
//	x-flood     so many deliveries, made beforehand, as fast as they are taken; below 0 without end
//	x-size      octets in the body of each
//	x-exchange  what they say they were published to
//	x-echo      true: whatever is published on the connection is delivered to this consumer
//
// A mandatory message whose key says that it is a probe comes back, as from an
// exchange that nobody has bound by it.
//
// It must never be taken for a model of RabbitMQ: it routes nothing, stores
// nothing, checks nothing and knows no prefetch.
package fakebroker
