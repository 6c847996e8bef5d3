// Package broker starts real RabbitMQ nodes for tests, for the demo program and for fault runs.
//
// It owns everything a node needs: its ports, its data and log directory, its cookie, its Erlang
// port mapper (epmd) and its processes. A Node lives until Close, across any number of Kill, Stop
// and Boot calls, and keeps its name, its ports and its data meanwhile. After Close nothing is
// left: no process, no port and, unless Options.Dir was given, no file. When the program that
// started a node dies, the kernel kills the node and its epmd; only the temporary directory stays.
//
// It must never use the system's own RabbitMQ: not its ports, its cookie, its data or its epmd, nor
// any fixed port at all. It never skips: where RabbitMQ is missing, starting a node is an error and
// a test that wants one fails. It knows nothing of the proxy.
//
// The core (Start, StartCluster and the methods of Node) takes a context and returns errors; the
// context bounds that one call, never the life of the node. testing.go is a thin layer over it that
// takes a testing.TB.
//
// Linux only: it relies on process groups, parent-death signals and abstract sockets.
package broker
