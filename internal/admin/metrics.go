package admin

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the counters of the proxy when it is asked: the data path keeps
// its own and knows nothing of metrics.
type collector struct{ s Sources }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("amqproxy_"+name, help, labels, nil)
}

var (
	buildInfo   = desc("build_info", "1, with the version of the proxy as a label.", "version", "node")
	connections = desc("connections", "Client connections that are open.")
	opened      = desc("connections_opened_total", "Client connections that were accepted.")
	overLimit   = desc("connections_refused_total", "Client connections that were closed because of a limit.")
	channels    = desc("channels", "Client channels that are open.")
	bytesIn     = desc("client_received_bytes_total", "Octets of AMQP received from clients.")
	bytesOut    = desc("client_sent_bytes_total", "Octets of AMQP sent to clients.")
	published   = desc("messages_published_total", "Messages that clients published, to streams or not.")
	delivered   = desc("messages_delivered_total", "Messages that clients were delivered or got, from streams or not.")
	confirmed   = desc("messages_confirmed_total", "Publishes that the broker acked.")
	nacked      = desc("messages_nacked_total", "Publishes that the broker nacked.")
	returned    = desc("messages_unroutable_returned_total", "Messages that the broker returned.")
	rerouted    = desc("messages_rerouted_total", "Messages for a stream that came back and were sent to another shard.")
	retried     = desc("messages_retried_total", "Messages for a stream that were nacked and sent again: each may be there twice.")
	dropped     = desc("messages_dropped_total", "Messages without confirms that no shard could take, and that were not mandatory.")
	links       = desc("publish_links", "Links of clients' connections to brokers that are open, for publishing and for groups.")
	moves       = desc("group_moves_total", "Shards that consumers of this proxy have given back, for others to read.")
	handovers   = desc("group_handover_seconds", "How long these consumers took to settle what they had of the shard.")
	refused     = desc("channel_errors_total", "Channels that the proxy closed with an error of its own.")

	streamPublished = desc("stream_messages_published_total", "Messages that clients published to a stream.", "vhost", "stream")
	streamDelivered = desc("stream_messages_delivered_total", "Messages that clients were delivered or got from a stream.", "vhost", "stream")
	streamReturned  = desc("stream_messages_unroutable_returned_total", "Messages for a stream that the broker returned.", "vhost", "stream")
	streamRerouted  = desc("stream_messages_rerouted_total", "Messages for a stream that came back and were sent to another shard.", "vhost", "stream")
	streamRetried   = desc("stream_messages_retried_total", "Messages for a stream that were nacked and sent again: each may be there twice.", "vhost", "stream")
	streamDropped   = desc("stream_messages_dropped_total", "Messages without confirms that no shard could take, and that were not mandatory.", "vhost", "stream")
	streamRefused   = desc("stream_methods_refused_total", "Methods that were refused on a stream.", "vhost", "stream")
	uncovered       = desc("group_shards_uncovered", "Shards of a stream whose consumers are a group that none of them reads now, on all nodes.", "vhost", "stream")
	streamShards    = desc("stream_shards", "Shards of a stream that are in use.", "vhost", "stream")
)

// Describe tells nothing: the streams that there are change.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		put(d, prometheus.CounterValue, float64(v), labels...)
	}
	put(buildInfo, prometheus.GaugeValue, 1, c.s.Version, c.s.Node)
	sessions, open := c.s.Proxy.Sessions(), 0
	for _, s := range sessions {
		open += s.Channels
	}
	put(connections, prometheus.GaugeValue, float64(len(sessions)))
	put(channels, prometheus.GaugeValue, float64(open))

	t := c.s.Proxy.Totals()
	count(opened, t.Accepted.Load())
	count(overLimit, t.Refused.Load())
	count(bytesIn, t.FromBytes.Load())
	count(bytesOut, t.ToBytes.Load())
	count(published, t.Messages.Published.Load())
	count(delivered, t.Messages.Delivered.Load())
	count(confirmed, t.Messages.Confirmed.Load())
	count(nacked, t.Messages.Nacked.Load())
	count(returned, t.Messages.Returned.Load())
	count(rerouted, t.Messages.Rerouted.Load())
	count(retried, t.Messages.Retried.Load())
	count(dropped, t.Messages.Dropped.Load())
	put(links, prometheus.GaugeValue, float64(t.Links.Load()))
	count(refused, t.Messages.Refused.Load())

	h := c.s.Streams.Handovers()
	count(moves, h.Count)
	out <- prometheus.MustNewConstHistogram(handovers, h.Count, h.Seconds, h.Buckets)
	for name, n := range c.s.Streams.Uncovered() {
		put(uncovered, prometheus.GaugeValue, float64(n), name.VHost, name.Stream)
	}
	for _, s := range c.s.Streams.Streams() {
		count(streamPublished, s.Published, s.VHost, s.Stream)
		count(streamDelivered, s.Delivered, s.VHost, s.Stream)
		count(streamReturned, s.Returned, s.VHost, s.Stream)
		count(streamRerouted, s.Rerouted, s.VHost, s.Stream)
		count(streamRetried, s.Retried, s.VHost, s.Stream)
		count(streamDropped, s.Dropped, s.VHost, s.Stream)
		count(streamRefused, s.Refused, s.VHost, s.Stream)
		put(streamShards, prometheus.GaugeValue, float64(s.Shards), s.VHost, s.Stream)
	}
}
