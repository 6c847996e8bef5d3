package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"
)

// scripts holds the programs of Debian's package. Those of the same names on PATH switch to the
// rabbitmq user and read the system node's settings.
const scripts = "/usr/lib/rabbitmq/bin"

// home is what the nodes of one cluster share: a directory, the cookie in it and an epmd. Every
// node holds it until its Close; the last one to release it takes it down.
type home struct {
	dir       string
	temporary bool
	epmd      *process
	epmdPort  *port
	holders   atomic.Int32
}

func openHome(ctx context.Context, dir string, holders int) (*home, error) {
	if err := checkInstalled(); err != nil {
		return nil, err
	}
	h := &home{dir: dir}
	h.holders.Store(int32(holders))
	if err := h.prepare(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	if err := h.startEpmd(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func checkInstalled() error {
	needed := []string{
		filepath.Join(scripts, "rabbitmq-server"), filepath.Join(scripts, "rabbitmqctl"), "epmd", "erl_call",
	}
	for _, program := range needed {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("RabbitMQ is not installed (apt-get install rabbitmq-server): %w", err)
		}
	}
	return nil
}

func (h *home) prepare() (err error) {
	if h.dir == "" {
		h.temporary = true
		if h.dir, err = os.MkdirTemp("", "broker-"); err != nil {
			return err
		}
	} else if h.dir, err = filepath.Abs(h.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return err
	}
	cookie := filepath.Join(h.dir, ".erlang.cookie")
	if _, err := os.Stat(cookie); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(cookie, []byte(rand.Text()), 0o400)
}

// startEpmd runs epmd as a child of ours. A node would start one itself, but as a daemon that
// outlives it.
func (h *home) startEpmd(ctx context.Context) (err error) {
	if h.epmdPort, err = reservePort(); err != nil {
		return err
	}
	cmd := exec.Command("epmd", "-port", h.epmdPort.String(), "-address", "127.0.0.1")
	cmd.Env = h.environment()
	if h.epmd, err = startProcess(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return await(ctx, h.epmd, func(ctx context.Context) bool {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", h.epmdPort.addr())
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// environment is built from nothing, so that no RABBITMQ_ or ERL_ variable of the caller's counts.
func (h *home) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + h.dir,
		"LANG=C.UTF-8",
		"ERL_EPMD_PORT=" + h.epmdPort.String(),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		// Unset, the command-line tools share eleven fixed ports on all interfaces.
		"RABBITMQ_CTL_DIST_PORT_MIN=0",
		"RABBITMQ_CTL_DIST_PORT_MAX=0",
		"RABBITMQ_CTL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
	}
}

func (h *home) release() error {
	if h.holders.Add(-1) > 0 {
		return nil
	}
	return h.close()
}

func (h *home) close() error {
	h.epmd.kill()
	if h.epmdPort != nil {
		h.epmdPort.release()
	}
	if !h.temporary {
		return nil
	}
	return os.RemoveAll(h.dir)
}

// await polls ready until it is true. It fails as soon as the process ends or the context does.
func await(ctx context.Context, p *process, ready func(context.Context) bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if ready(ctx) {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
