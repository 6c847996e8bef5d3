package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	halves   = 12      // clients that die in mid-content
	halfBody = 300_000 // three frames
)

// killClients starts clients that send a part of a message, and kills each when it
// has.
func killClients(ctx context.Context, r *run) error {
	entrances := r.path.entrances(r.Victim)
	for i := range halves {
		if err := killHalf(ctx, entrances[i%len(entrances)].url, 1000+r.rng.IntN(halfBody-2000)); err != nil {
			return fmt.Errorf("a client that dies in mid-content: %w", err)
		}
	}
	return nil
}

func killHalf(ctx context.Context, url string, size int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "half", url, strconv.Itoa(size))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	return err
}

// beHalf is the client: it writes so many bytes of a message, says so, and waits for
// its end.
func beHalf(url, size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	var stall *stalling
	dial := func(network, addr string) (net.Conn, error) {
		conn, err := net.DialTimeout(network, addr, dialTime)
		stall = &stalling{Conn: conn, left: -1}
		return stall, err
	}
	conn, err := amqp.DialConfig(url, amqp.Config{Dial: dial})
	if err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	stall.left = n
	body := strings.Repeat("half ", halfBody/5)
	if err := ch.Publish(stream, routingKey(n%keys), false, false, amqp.Publishing{Body: []byte(body)}); err != nil {
		return err
	}
	return errors.New("all of it was written")
}

// stalling is a connection on which so many more bytes are written; -1 is no limit.
type stalling struct {
	net.Conn
	left int
}

func (s *stalling) Write(b []byte) (int, error) {
	if s.left < 0 || len(b) < s.left {
		if s.left > 0 {
			s.left -= len(b)
		}
		return s.Conn.Write(b)
	}
	if _, err := s.Conn.Write(b[:s.left]); err != nil {
		return 0, err
	}
	fmt.Println("half of it is written")
	select {}
}
