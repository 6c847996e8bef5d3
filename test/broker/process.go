package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

var errNotRunning = errors.New("not running")

// process is one child in a process group of its own. A goroutine started by startProcess owns it
// until it is reaped; closing done is that goroutine's last act, so waiting for done joins it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // what Wait returned; valid once done is closed
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		// The kernel sends the parent-death signal when the thread that forked the child ends,
		// not when the program does: keep that thread for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// running also answers for a nil process, one that was never started.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signalGroup(sig syscall.Signal) error {
	if !p.running() {
		return errNotRunning
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

// kill returns when the process is gone; killing one that isn't running does nothing.
func (p *process) kill() {
	if p.signalGroup(syscall.SIGKILL) == nil {
		<-p.done
	}
}

// run runs one short command to its end, or to the context's, and returns what it printed.
func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	p, err := startProcess(cmd)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return "", fmt.Errorf("%s: %w", filepath.Base(cmd.Path), context.Cause(ctx))
	}
	if p.err != nil {
		said := bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...))
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), p.err, said)
	}
	return stdout.String(), nil
}
