package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a child of ours. A goroutine owns it until it is reaped, and closes
// done last.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // the death of this thread would be the child's
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// stop ends the process and waits for its end.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	<-p.done
}

// cpu is what the process has used, user and system, all its threads; 0 for no
// process. The kernel makes the id of another process's CPU clock of its pid.
func (p *process) cpu() (time.Duration, error) {
	if p == nil {
		return 0, nil
	}
	const scheduler = 2 // CPUCLOCK_SCHED: what ran, in nanoseconds
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid)<<3|scheduler, &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of %s: %w", filepath.Base(p.cmd.Path), err)
	}
	return time.Duration(ts.Nano()), nil
}

// rss is the process's resident memory in bytes.
func (p *process) rss() (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) == 3 && words[0] == "Rss:" {
			kib, err := strconv.ParseInt(words[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Rss in %s", f.Name())
}

// files is how many descriptors the process has open.
func (p *process) files() (int, error) {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(all), err
}

// listening is where an amqproxy takes clients, and those who want to know.
type listening struct{ Listen, Admin string }

// listens waits until amqproxy's log says where it takes clients.
func (p *process) listens(log string) (listening, error) {
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(log)
		if err != nil {
			return listening{}, err
		}
		for line := range bytes.Lines(text) {
			var said struct {
				Msg string
				listening
			}
			if json.Unmarshal(line, &said) == nil && said.Msg == "amqproxy runs" {
				return said.listening, nil
			}
		}
		select {
		case <-p.done:
			return listening{}, fmt.Errorf("amqproxy ended at once:\n%s", text)
		default:
		}
	}
	return listening{}, fmt.Errorf("amqproxy does not take clients; its log is %s", log)
}
