// Command bench measures what a proxy costs: it starts a sink (internal/fakebroker)
// and a RabbitMQ node, puts nothing, HAProxy in TCP mode and amqproxy before each,
// and compares them in one run, round after round in rotated order. Three more sinks, with
// an amqproxy each, are there for what goes over publish links; only the first is measured.
//
// It owns all that it starts, on ports of its own, and takes it down. The sink is
// this program again, as a process of its own, so that the load, the proxy and the
// far end are charged for apart. The load is made of frames that were encoded
// beforehand, written to plain sockets.
//
//	main.go       flags, and the order of the run
//	scenario.go   what is measured, as data, and the rounds
//	setup.go      processes and paths: what stands between a client and a broker
//	hop.go        how HAProxy and amqproxy are started; declare.go: what the broker has
//	links.go      a stream over several nodes, and how its links are seen
//	proc.go       one process: its CPU time, its memory
//	client.go     a client on a raw socket
//	publish.go deliver.go through.go latency.go cycles.go idle.go   the measurements
//	figures.go    medians and spread
//	goals.go      what amqproxy is to reach
//	report.go svg.go   the table, the JSON, the plots
//
// CPU is that of the proxy's whole process, user and system, by its CPU clock.
package main
