package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	bootTimeout = 5 * time.Minute
	stopTimeout = time.Minute

	logFile = "rabbit.log" // all the node prints and logs
)

// Node is one RabbitMQ node, running or not. Its methods may be called from several goroutines.
type Node struct {
	name    string
	home    *home
	dir     string
	amqp    *port
	dist    *port
	plugins map[string]*port // by plugin, for those that listen

	mu     sync.Mutex
	proc   *process // the beam: the running one or the last one
	closed bool
}

// Name returns the Erlang node name, such as "broker-x@localhost".
func (n *Node) Name() string { return n.name }

// Addr returns the host and port of the AMQP listener.
func (n *Node) Addr() string { return n.amqp.addr() }

// PluginAddr returns the host and port of a plugin's HTTP listener, or "" if the node was started
// without that plugin.
func (n *Node) PluginAddr(plugin string) string {
	if p := n.plugins[plugin]; p != nil {
		return p.addr()
	}
	return ""
}

// URL returns the AMQP URL for guest on a vhost.
func (n *Node) URL(vhost string) string { return n.UserURL("guest", "guest", vhost) }

// UserURL is URL for a user other than guest.
func (n *Node) UserURL(user, password, vhost string) string {
	return fmt.Sprintf("amqp://%s@%s/%s", url.UserPassword(user, password), n.Addr(), url.PathEscape(vhost))
}

// Boot starts a node that was killed or stopped, with the data it had, and returns once it serves
// AMQP. If it fails the node isn't running. A cluster member waits for the members it last saw
// running, so boot those of a cluster that is all down side by side.
func (n *Node) Boot(ctx context.Context) error {
	p, err := n.launch()
	if err != nil {
		return fmt.Errorf("broker: boot %s: %w", n.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := await(ctx, p, n.ready); err != nil {
		p.kill()
		return fmt.Errorf("broker: boot %s: %w\n%s", n.name, err, n.LogTail())
	}
	return nil
}

func (n *Node) launch() (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("closed")
	}
	if n.proc.running() {
		return nil, errors.New("already running")
	}
	log, err := os.OpenFile(n.file(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(scripts, "rabbitmq-server"))
	cmd.Dir, cmd.Env = n.dir, n.environment()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := startProcess(cmd)
	if err == nil {
		n.proc = p
	}
	return p, err
}

// ready needs more than AMQP service, because that begins a moment before the node counts itself as
// booted, and a vhost created on another node in that moment would stay down on this one.
func (n *Node) ready(ctx context.Context) bool {
	if !n.servesAMQP(ctx) {
		return false
	}
	booted, err := n.Eval(ctx, "rabbit:is_booted()")
	return err == nil && booted == "true"
}

// servesAMQP greets the node as a client does. An open port proves nothing; connection.start does,
// whose first byte is the frame type: a method.
func (n *Node) servesAMQP(ctx context.Context) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.Addr())
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	frameType := make([]byte, 1)
	_, err = io.ReadFull(conn, frameType)
	return err == nil && frameType[0] == 1
}

func (n *Node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// Kill kills the node as kill -9 does and returns when it is gone; what survives is for RabbitMQ to
// say, and for Sync. It does nothing to a node that isn't running, and works on a paused one.
func (n *Node) Kill() { n.current().kill() }

// Stop shuts the node down in order and returns when it is gone. If that takes too long, as it does
// for a paused node, the node is left as it is.
func (n *Node) Stop(ctx context.Context) error {
	p := n.current()
	if !p.running() {
		return fmt.Errorf("broker: stop %s: %w", n.name, errNotRunning)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("broker: stop %s: %w", n.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broker: stop %s: %w\n%s", n.name, context.Cause(ctx), n.LogTail())
	}
}

// Restart is Stop and Boot.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	return n.Boot(ctx)
}

// Pause freezes the node: its connections stay open and nothing answers on them. The
// signal stops its threads one by one, so Pause waits until no thread runs.
func (n *Node) Pause() error {
	if err := n.signal("pause", syscall.SIGSTOP); err != nil {
		return err
	}
	group := fmt.Sprint(n.current().cmd.Process.Pid)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if groupStopped(group) {
			return nil
		}
	}
	return fmt.Errorf("broker: %s still runs after SIGSTOP", n.name)
}

// groupStopped tells whether every thread of a process group is stopped or dead.
func groupStopped(group string) bool {
	stats, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		_, after, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(after); len(f) > 2 && f[2] == group && !strings.Contains("TZX", f[0]) {
			return false
		}
	}
	return true
}

// Resume ends a Pause.
func (n *Node) Resume() error { return n.signal("resume", syscall.SIGCONT) }

func (n *Node) signal(verb string, sig syscall.Signal) error {
	if err := n.current().signalGroup(sig); err != nil {
		return fmt.Errorf("broker: %s %s: %w", verb, n.name, err)
	}
	return nil
}

// LogTail returns the last lines the node logged, for error messages.
func (n *Node) LogTail() string {
	text, err := os.ReadFile(n.file(logFile))
	if err != nil {
		return fmt.Sprintf("(no log of %s: %v)", n.name, err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(0, len(lines)-100):]
	return fmt.Sprintf("--- the end of the log of %s\n%s", n.name, strings.Join(lines, "\n"))
}

// Close kills the node if it runs (Stop it first to keep what is in Options.Dir) and gives up all it
// holds; the cluster's last node takes the epmd and the temporary directory along. Closing again
// does nothing.
func (n *Node) Close() error {
	n.mu.Lock()
	closed := n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return nil
	}
	n.Kill()
	n.releasePorts()
	if err := n.home.release(); err != nil {
		return fmt.Errorf("broker: close %s: %w", n.name, err)
	}
	return nil
}
