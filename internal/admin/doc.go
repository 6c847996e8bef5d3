// Package admin shows what the proxy knows: health, metrics in Prometheus' text
// form, and JSON views of brokers, streams, shards and sessions, over HTTP on
// loopback. It reads snapshots only and changes nothing.
//
// Names of metrics and of JSON fields are an interface that others rely on.
package admin
