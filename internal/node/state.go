package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"amqproxy/shard"
)

// stateFile is what a node remembers over a restart: JSON, replaced as a whole.
type stateFile struct {
	Version int           `json:"version"` // 1
	Node    string        `json:"node"`
	Streams []streamState `json:"streams"`
}

type streamState struct {
	VHost     string   `json:"vhost"`
	Stream    string   `json:"stream"`
	Type      string   `json:"type,omitempty"` // the exchange type as declared; "" if adopted
	Durable   bool     `json:"durable"`
	HashOn    string   `json:"hash_on,omitempty"` // as declared
	Shards    []string `json:"shards"`            // queues that were ready
	Destroyed bool     `json:"destroyed,omitempty"`
}

// load reads the state file. One that can't be read is an error: to begin anew
// without it would be to forget streams silently.
func (n *Node) load() error {
	if n.cfg.StateFile == "" {
		return nil
	}
	b, err := os.ReadFile(n.cfg.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(filepath.Dir(n.cfg.StateFile), 0o755)
	}
	if err != nil {
		return err
	}
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("state file %s: %w", n.cfg.StateFile, err)
	}
	if f.Version != 1 {
		return fmt.Errorf("state file %s is of version %d, this amqproxy reads version 1", n.cfg.StateFile, f.Version)
	}
	for _, st := range f.Streams {
		if err := n.restore(st); err != nil {
			return fmt.Errorf("state file %s: stream '%s': %w", n.cfg.StateFile, st.Stream, err)
		}
	}
	return nil
}

func (n *Node) restore(st streamState) error {
	declared := shard.Declared{Type: st.Type, Durable: st.Durable}
	if st.HashOn != "" {
		on, err := shard.ParseHashOn(st.HashOn)
		if err != nil {
			return err
		}
		declared.HashOn = on
	}
	name := shard.Name{VHost: st.VHost, Stream: st.Stream}
	s, err := n.remember(name, declared)
	if err != nil {
		n.log.Warn("a stream of the state file is no stream any more", zap.String("stream", st.Stream), zap.String("vhost", st.VHost), zap.Error(err))
		return nil
	}
	// A shard that was ready takes messages until the broker says otherwise; with
	// other shards than before, none is taken for granted.
	s.ready = slices.Equal(st.Shards, s.queues)
	if st.Destroyed {
		s.state = Destroyed
	}
	return nil
}

// save writes the state file. n.mu is held.
func (n *Node) save() {
	if n.cfg.StateFile == "" {
		return
	}
	f := stateFile{Version: 1, Node: n.cfg.Name, Streams: []streamState{}}
	for _, s := range n.streams {
		st := streamState{VHost: s.name.VHost, Stream: s.name.Stream, Type: s.declared.Type, Durable: s.declared.Durable,
			HashOn: s.declared.HashOn.String(), Shards: []string{}, Destroyed: s.state == Destroyed}
		if s.ready {
			st.Shards = s.queues
		}
		f.Streams = append(f.Streams, st)
	}
	slices.SortFunc(f.Streams, func(a, b streamState) int {
		return slices.Compare([]string{a.VHost, a.Stream}, []string{b.VHost, b.Stream})
	})
	b, err := json.MarshalIndent(f, "", "  ")
	if err == nil {
		err = renameio.WriteFile(n.cfg.StateFile, append(b, '\n'), 0o644)
	}
	if err != nil {
		n.log.Error("the state file can't be written: streams will be forgotten by a restart", zap.Error(err))
	}
}
