package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// prepare reserves the node's ports and writes the files it boots from. What it has reserved when
// it fails is Close's to release.
func (n *Node) prepare(o Options) (err error) {
	n.dir = filepath.Join(n.home.dir, strings.TrimSuffix(n.name, "@localhost"))
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	if n.amqp, err = reservePort(); err != nil {
		return err
	}
	if n.dist, err = reservePort(); err != nil {
		return err
	}
	listeners, err := n.reservePluginPorts(o.Plugins)
	if err != nil {
		return err
	}
	files := map[string]string{
		"rabbitmq.conf":   n.baseConfig() + listeners + o.Config + "\n",
		"advanced.config": "[].\n",
		"enabled_plugins": "[" + strings.Join(o.Plugins, ",") + "].\n",
	}
	for name, text := range files {
		if err := os.WriteFile(n.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) file(name string) string { return filepath.Join(n.dir, name) }

func (n *Node) baseConfig() string {
	return fmt.Sprintf(`listeners.tcp.1 = %s
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
cluster_partition_handling = ignore
`, n.Addr())
}

// reservePluginPorts returns the configuration lines that give a port of ours to each plugin that
// would else listen on a fixed one.
func (n *Node) reservePluginPorts(plugins []string) (lines string, err error) {
	n.plugins = make(map[string]*port)
	for _, plugin := range plugins {
		key := listenerKey(plugin)
		if key == "" || n.plugins[plugin] != nil {
			continue
		}
		p, err := reservePort()
		if err != nil {
			return "", err
		}
		n.plugins[plugin] = p
		lines += fmt.Sprintf("%s.ip = 127.0.0.1\n%s.port = %s\n", key, key, p)
	}
	return lines, nil
}

func listenerKey(plugin string) string {
	switch plugin {
	case "rabbitmq_management":
		return "management.tcp"
	case "rabbitmq_prometheus":
		return "prometheus.tcp"
	}
	return ""
}

func (n *Node) releasePorts() {
	for _, p := range n.plugins {
		p.release()
	}
	for _, p := range []*port{n.amqp, n.dist} {
		if p != nil {
			p.release()
		}
	}
}

func (n *Node) environment() []string {
	return append(n.home.environment(),
		"RABBITMQ_NODENAME="+n.name,
		"RABBITMQ_DIST_PORT="+n.dist.String(),
		"RABBITMQ_MNESIA_BASE="+n.file("mnesia"),
		"RABBITMQ_LOG_BASE="+n.dir,
		// To stdout: the node buffers a log file for seconds, so that a kill would lose its end.
		"RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE="+n.file("pid"),
		"RABBITMQ_CONFIG_FILE="+n.file("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+n.file("advanced.config"),
		"RABBITMQ_GENERATED_CONFIG_DIR="+n.file("generated"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+n.file("enabled_plugins"),
		"RABBITMQ_FEATURE_FLAGS_FILE="+n.file("feature_flags"),
		"ERL_CRASH_DUMP_BYTES=0",
		// Makes the script exec the beam instead of waiting for it, so that the process we start,
		// signal and tie to our own life is the beam itself.
		"RUNNING_UNDER_SYSTEMD=true",
		// Two schedulers each, and not all nodes' schedulers bound to the same two cores.
		"RABBITMQ_SCHEDULER_BIND_TYPE=u",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
	)
}
