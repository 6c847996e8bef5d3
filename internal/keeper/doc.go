// Package keeper runs errands on the broker beside the proxy: it makes a
// stream's exchange and shards, proves that they are bound, and counts, purges
// and deletes shards for a client.
//
// It owns its own connections to the broker, one for each vhost and login, and
// ends those that are idle. It speaks AMQP with amqp091-go, which is right for
// errands and too slow for the data path.
//
// It must never decide what should exist: it is told. It knows no client, and
// remembers nothing of what it made.
package keeper
