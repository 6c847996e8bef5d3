package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// patience bounds every wait for something that must come.
const patience = 30 * time.Second

// scenario is what runs.
type scenario struct {
	urls   []string
	stream string
	own    *own // nil: the installation is somebody else's
	events *events
	run    map[string]*exec.Cmd
}

// play does all steps, and judges.
func (s *scenario) play(ctx context.Context) (err error) {
	if s.events, err = newEvents(); err != nil {
		return err
	}
	s.run = map[string]*exec.Cmd{}
	if err := s.declare(); err != nil {
		return err
	}
	for _, step := range []struct {
		says string
		do   func(context.Context) error
		skip bool
	}{
		{"c1 reads, p1 and p2 send", s.begin, false},
		{"c2 joins", s.joins("c2", 1), false},
		{"c3 joins", s.joins("c3", 2), false},
		{"c2 ends (SIGTERM)", s.ends("c2"), false},
		{"p2 is killed (SIGKILL), another goes on", s.producerDies, false},
		{"c2 joins again", s.joins("c2", 1), false},
		{"c3 is killed (SIGKILL)", s.dies("c3"), false},
		{"c3 joins again", s.joins("c3", 2), false},
		{"c3's proxy is killed (SIGKILL)", s.proxyDies, s.own == nil},
		{"it is back", s.proxyReturns, s.own == nil},
	} {
		if step.skip {
			continue
		}
		if err := s.step(ctx, step.says, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.says, err)
		}
	}
	return s.end(ctx)
}

// step does something, and waits until every key is read again.
func (s *scenario) step(ctx context.Context, says string, do func(context.Context) error) error {
	s.events.look((*account).mark)
	if err := do(ctx); err != nil {
		return err
	}
	took := time.Duration(0)
	err := s.until(ctx, "a message of each key", func(a *account) (all bool) {
		took, all = a.covered()
		return all
	})
	s.events.look(func(a *account) {
		fmt.Printf("%-39s  %-38s  %d moved, all are read after %.2f s\n", says, a.owners(), len(a.moved), took.Seconds())
	})
	return err
}

// until waits until something is so in the account.
func (s *scenario) until(ctx context.Context, what string, so func(*account) bool) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		is := false
		s.events.look(func(a *account) { is = so(a) })
		if is {
			return nil
		}
		select {
		case <-tick.C:
		case <-late.C:
			return fmt.Errorf("after %s: no %s", patience, what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// declare is what any application does that publishes: it declares its exchange.
func (s *scenario) declare() error {
	conn, err := amqp.Dial(s.urls[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return ch.ExchangeDeclare(s.stream, "x-consistent-hash", true, false, false, false, nil)
}

// start starts a process that tries the proxy i first.
func (s *scenario) start(role, name string, i int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	urls := slices.Concat(s.urls[i%len(s.urls):], s.urls[:i%len(s.urls)])
	cmd := exec.Command(self, append([]string{role, name, s.stream}, urls...)...)
	cmd.Stdout = s.events.write
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.run[name] = cmd
	return cmd.Start()
}

func (s *scenario) begin(ctx context.Context) error {
	if err := s.joins("c1", 0)(ctx); err != nil {
		return err
	}
	return errors.Join(s.start("producer", "p1", 0), s.start("producer", "p2", 1))
}

// joins has a consumer join, and waits until it has keys: for a while, since its shards may
// have none.
func (s *scenario) joins(name string, proxy int) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := s.start("consumer", name, proxy); err != nil {
			return err
		}
		if err := s.until(ctx, name+" that reads", func(a *account) bool { return a.reading[name] }); err != nil || name == "c1" {
			return err
		}
		return s.settled(ctx, name)
	}
}

// settled waits until a consumer has a key, for a while.
func (s *scenario) settled(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience/3)
	defer cancel()
	err := s.until(ctx, "key for "+name, func(a *account) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return a.reading[name] && a.owner[k] == name })
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// ends ends a process with SIGTERM, and waits for its end.
func (s *scenario) ends(name string) func(context.Context) error {
	return func(context.Context) error {
		cmd := s.run[name]
		delete(s.run, name)
		return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	}
}

// dies kills a process.
func (s *scenario) dies(name string) func(context.Context) error {
	return func(context.Context) error {
		event{who: name, what: cut}.say(s.events.write)
		cmd := s.run[name]
		delete(s.run, name)
		err := cmd.Process.Kill()
		cmd.Wait() // the error is that it was killed
		return err
	}
}

func (s *scenario) producerDies(ctx context.Context) error {
	if err := s.dies("p2")(ctx); err != nil {
		return err
	}
	return s.start("producer", "p3", 1)
}

// proxyDies kills the proxy that c3 is connected to, which goes to another then.
func (s *scenario) proxyDies(context.Context) error {
	event{who: "c3", what: cut}.say(s.events.write)
	s.own.proxies[2].kill()
	return nil
}

func (s *scenario) proxyReturns(ctx context.Context) error { return s.own.proxies[2].boot(ctx) }

// end ends the producers, waits until all is read, ends the consumers and judges.
func (s *scenario) end(ctx context.Context) error {
	for _, name := range []string{"p1", "p3"} {
		if err := s.ends(name)(ctx); err != nil {
			return err
		}
	}
	err := s.until(ctx, "end of what is stored", func(a *account) bool { return len(a.missing()) == 0 })
	for _, name := range []string{"c1", "c2", "c3"} {
		err = errors.Join(err, s.ends(name)(ctx))
	}
	s.events.close()
	s.events.look(func(a *account) {
		missing := a.missing()
		fmt.Printf("\nSent %d, confirmed %d, delivered %d; lost %d; %d came again after a kill, all flagged as redelivered.\n",
			a.sent, a.stored, a.delivered, len(missing), a.again)
		if len(missing) > 0 || len(a.faults) > 0 {
			err = errors.Join(err, fmt.Errorf("lost: %.5q; %d promises broken: %.5q", missing, len(a.faults), a.faults))
			return
		}
		fmt.Println("At any time every key was at one consumer, and its messages came in order.")
	})
	return err
}

// close kills what still runs.
func (s *scenario) close() error {
	for _, cmd := range s.run {
		cmd.Process.Kill()
		cmd.Wait() // the error is that it was killed
	}
	return nil
}
