// Package daemon runs the real amqproxy binary for tests: built once from this
// tree, configured with a file, spoken to over its sockets, ended by signals. It
// must never reach into the proxy's packages: what a test sees is what a user
// sees.
package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"amqproxy/test/netns"
	"amqproxy/test/poll"
)

// startTimeout is how long a proxy may take until it accepts clients. It waits
// itself for shards that it remembers, for at most 5 s.
const startTimeout = 20 * time.Second

// Binary builds amqproxy with the race detector, once for a test binary, and
// gives its path.
var Binary = sync.OnceValues(func() (string, error) { return build("-race") })

// plain is the same without the race detector.
var plain = sync.OnceValues(func() (string, error) { return build("-race=false") })

func build(race string) (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	dir, err := os.MkdirTemp("", "amqproxy-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "amqproxy")
	build := exec.Command("go", "build", race, "-o", path, "./cmd/amqproxy")
	build.Dir = strings.TrimSpace(string(root))
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// Proxy is a running amqproxy.
type Proxy struct {
	t     testing.TB
	file  string
	build func() (string, error)
	cmd   *exec.Cmd
	done  chan struct{} // closed when the process has ended
	err   error         // what Wait said; read it after done
	ready chan struct{}
	space *netns.Space // where it runs; nil is here

	mu    sync.Mutex
	log   bytes.Buffer
	addr  string
	admin string
}

// Start runs a proxy with the configuration in yaml, to which it adds addresses
// of its own and a state directory where the text sets none: leave out listen,
// admin and state-dir. It is ended when the test ends.
func Start(t testing.TB, yaml string) *Proxy {
	t.Helper()
	p := New(t, yaml)
	p.Boot()
	return p
}

// New is Start without the start: the proxy is not run yet.
func New(t testing.TB, yaml string) *Proxy {
	t.Helper()
	dir := t.TempDir()
	for key, value := range map[string]string{
		"listen:":    "127.0.0.1:0",
		"admin:":     "{listen: 127.0.0.1:0}",
		"state-dir:": filepath.Join(dir, "state"),
	} {
		if !strings.Contains("\n"+yaml, "\n"+key) {
			yaml += "\n" + key + " " + value
		}
	}
	p := &Proxy{t: t, build: Binary, file: filepath.Join(dir, "amqproxy.yaml")}
	if err := os.WriteFile(p.file, []byte(yaml+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", p.Log())
		}
		if strings.Contains(p.Log(), "DATA RACE") || strings.Contains(p.Log(), "panic:") {
			t.Errorf("the proxy's log has a data race or a panic:\n%s", p.Log())
		}
	})
	return p
}

// Plain has the proxy run without the race detector, from the next start on: for what
// is measured.
func (p *Proxy) Plain() { p.build = plain }

// Inside has the proxy run in a network namespace, from the next start on.
func (p *Proxy) Inside(s *netns.Space) { p.space = s }

// Dial connects as somebody on the host of the proxy.
func (p *Proxy) Dial(network, addr string) (net.Conn, error) {
	if p.space != nil {
		return p.space.Dial(network, addr)
	}
	return net.Dial(network, addr)
}

func (p *Proxy) dialContext(_ context.Context, network, addr string) (net.Conn, error) {
	return p.Dial(network, addr)
}

// Replace replaces text in the configuration, for the next start.
func (p *Proxy) Replace(old, new string) {
	p.t.Helper()
	b, err := os.ReadFile(p.file)
	if err == nil {
		err = os.WriteFile(p.file, bytes.ReplaceAll(b, []byte(old), []byte(new)), 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// Forget deletes the state directory, for the next start.
func (p *Proxy) Forget() {
	p.t.Helper()
	if err := os.RemoveAll(filepath.Join(filepath.Dir(p.file), "state")); err != nil {
		p.t.Fatal(err)
	}
}

// Boot starts the process (again) and waits until it accepts clients.
func (p *Proxy) Boot() {
	p.t.Helper()
	if err := p.TryBoot(); err != nil {
		p.t.Fatalf("%v\n%s", err, p.Log())
	}
}

// TryBoot is Boot for a proxy that may not start.
func (p *Proxy) TryBoot() error {
	binary, err := p.build()
	if err != nil {
		return err
	}
	command := exec.Command
	if p.space != nil {
		command = p.space.Command
	}
	p.cmd = command(binary, "run", "-c", p.file)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done, p.ready = make(chan struct{}), make(chan struct{})
	go func() { // joined by done
		defer close(p.done)
		p.follow(stderr)
		p.err = p.cmd.Wait()
	}()
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	select {
	case <-p.ready:
		return nil
	case <-p.done:
		return fmt.Errorf("the proxy ended at once: %v", p.err)
	case <-late.C:
		return fmt.Errorf("the proxy does not accept clients after %s", startTimeout)
	}
}

// follow keeps the log and finds the line that says where the proxy listens.
func (p *Proxy) follow(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Listen, Admin string }
		isJSON := json.Unmarshal(lines.Bytes(), &line) == nil
		p.mu.Lock()
		p.log.Write(append(lines.Bytes(), '\n'))
		if isJSON && line.Msg == "amqproxy runs" {
			p.addr, p.admin = line.Listen, line.Admin
			close(p.ready)
		}
		p.mu.Unlock()
	}
}

// Log is everything that the proxy has logged.
func (p *Proxy) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Addr is where clients connect.
func (p *Proxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Admin is where the admin listener is.
func (p *Proxy) Admin() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.admin
}

// URL is an AMQP URL of the proxy.
func (p *Proxy) URL(user, password, vhost string) string {
	return fmt.Sprintf("amqp://%s:%s@%s/%s", user, password, p.Addr(), strings.ReplaceAll(vhost, "/", "%2f"))
}

// Signal sends a signal to the process.
func (p *Proxy) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Kill ends the process with SIGKILL, if it lives, and waits for its end.
func (p *Proxy) Kill() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill() // the error of a process that has ended is none here
	<-p.done
}

// Stop ends the process with SIGTERM and gives its exit code; it fails the test
// if the process takes longer than timeout.
func (p *Proxy) Stop(timeout time.Duration) int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait(timeout)
}

// Wait waits for the process's end and gives its exit code.
func (p *Proxy) Wait(timeout time.Duration) int {
	p.t.Helper()
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
		p.t.Fatalf("the proxy has not ended after %s\n%s", timeout, p.Log())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Get reads a path of the admin listener.
func (p *Proxy) Get(path string) (status int, body string) {
	p.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: p.dialContext, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.Admin() + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Run runs the binary with other arguments and gives what it prints and its exit
// code.
func Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Eventually polls check until it gives nil, and fails the test with its last
// error after the timeout.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := poll.Until(ctx, check); err != nil {
		t.Fatalf("after %s: %v", timeout, err)
	}
}
