// Package demo shows amqproxy at work with nothing but itself: three brokers in memory that
// know nothing of each other, a proxy beside each, a stream over all of them, and clients
// that use an ordinary AMQP library. It kills a broker, a proxy and a consumer, brings them
// back, shows which keys and shards move, and counts every message.
//
//	site       the brokers and the proxies
//	client     an application that connects to any proxy: producer, consumer
//	ledger     what became of each message
//	story      all of it, and what happens to it; moves are what can happen
//	judge      what was seen, held against what amqproxy promises
//	picture    what there is to see at a moment; lines are how it looks, on a terminal (live),
//	           as plain text, or in an SVG
//
// Clients and brokers are judged by what clients see: confirms and deliveries. That a key
// is on a shard is the word of the proxies' tables, and who reads a shard is the brokers'.
//
// It must never be needed by anything else, and never forgive the proxy what a user would
// not: what it counts is what it says.
package demo
