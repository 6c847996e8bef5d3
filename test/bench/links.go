package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"amqproxy/test/broker"
)

// farNodes is on how many nodes the stream is whose shards are as many as elsewhere. All
// but the first have theirs behind publish links.
const farNodes = 3

// startLinks starts the nodes, a sink and an amqproxy each. What is measured is the
// first. The sinks know nothing of each other, so there is no way but a link to what is on
// the others.
func (s *setup) startLinks() error {
	var gossip []string
	for range farNodes {
		addr, release, err := broker.ReserveAddress()
		if err != nil {
			return err
		}
		s.release = append(s.release, release)
		gossip = append(gossip, addr)
	}
	var nodes []launched
	for i := range gossip { // all before any is waited for: each looks for the others
		l, err := s.launchNode(i, gossip)
		if err != nil {
			return err
		}
		s.procs = append(s.procs, l.proc)
		nodes = append(nodes, l)
	}
	var first listening
	for i, l := range nodes {
		said, err := l.proc.listens(l.log)
		if err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
		if i == 0 {
			first = said
		}
	}
	for _, name := range append(groupNames(), streamName) {
		if err := declareStream(first.Listen, name); err != nil {
			return err
		}
	}
	if err := complete(first.Admin); err != nil {
		return err
	}
	s.paths[[2]string{sink, links}] = path{kind: links, target: sink, addr: first.Listen, proc: nodes[0].proc, exchange: streamName, queues: groupNames(), keys: bufferMessages,
		went:  func(connections int) error { return linked(first.Admin, connections*(farNodes-1)) },
		comes: func(connections int) error { return linked(first.Admin, connections*farNodes) }}
	return nil
}

// groupNames are the streams whose groups have one consumer each, so that each reads all
// shards of its own.
func groupNames() (names []string) {
	for i := range 8 {
		names = append(names, fmt.Sprintf("%s.group%d", streamName, i))
	}
	return names
}

// launchNode starts a sink and the amqproxy beside it.
func (s *setup) launchNode(i int, gossip []string) (launched, error) {
	target, err := s.startSink()
	if err != nil {
		return launched{}, err
	}
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return launched{}, err
	}
	var others []string
	for j, addr := range gossip {
		if j != i {
			others = append(others, strconv.Quote(addr))
		}
	}
	more := fmt.Sprintf("gossip: {listen: %q, join: [%s]}\n", gossip[i], strings.Join(others, ", "))
	return s.launch(dir, fmt.Sprintf("%s%d", nodeName, i), target, shards/farNodes, "balanced", more)
}

// complete waits until a proxy sends the stream's messages to all nodes' shards.
func complete(admin string) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		has, err := shardsOf(admin)
		if err != nil || has == shards {
			return err
		}
		select {
		case <-late.C:
			return fmt.Errorf("a stream has %d shards of %d", has, shards)
		case <-again.C:
		}
	}
}

// shardsOf tells how many of a stream's shards a proxy uses, of that of which it uses least.
func shardsOf(admin string) (int, error) {
	text, err := ask(admin, "/api/v1/streams")
	if err != nil {
		return 0, err
	}
	var streams []struct {
		Stream string
		Shards int
	}
	if err := json.Unmarshal(text, &streams); err != nil {
		return 0, fmt.Errorf("streams of %s: %w", admin, err)
	}
	least := 0
	for i, s := range streams {
		if least = min(least, s.Shards); i == 0 {
			least = s.Shards
		}
	}
	return least, nil
}

// linked fails if a proxy has fewer links open than want: then messages have gone to
// shards of its own in place of others, and have cost less than they should.
func linked(admin string, want int) error {
	text, err := ask(admin, "/metrics")
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		rest, is := strings.CutPrefix(lines.Text(), "amqproxy_publish_links ")
		if !is {
			continue
		}
		if open, err := strconv.Atoi(rest); err != nil || open < want {
			return fmt.Errorf("%s links are open, want %d", rest, want)
		}
		return nil
	}
	return errors.New("the metrics say nothing of publish links")
}

// ask gets something from a proxy's admin listener.
func ask(admin, what string) ([]byte, error) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + admin + what)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", what, admin, err)
	}
	return text, nil
}
