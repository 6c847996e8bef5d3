package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"
	"go.uber.org/zap"

	"amqproxy/membership"
)

// StateFile is what a node remembers over a restart: JSON, replaced as a whole.
type StateFile struct {
	path string
	mu   sync.Mutex
	state
	seen uint64 // digest of the facts that the file has
}

type state struct {
	Version int               `json:"version"` // 1
	Node    string            `json:"node"`
	ID      string            `json:"id"` // the gossip identity, made at the first start
	Memory  membership.Memory `json:"memory"`
}

// OpenState reads the state file, or begins one. One that can't be read is an
// error: to begin anew without it would be to forget streams silently.
func OpenState(path, node string) (*StateFile, error) {
	f := &StateFile{path: path, state: state{Version: 1, Node: node, ID: rand.Text()}}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		return f, f.write()
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(b, &f.state); err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("state file %s is of version %d, this amqproxy reads version 1", path, f.Version)
	}
	return f, nil
}

// Identity is the gossip identity.
func (f *StateFile) Identity() string { return f.ID }

// Remembered is what was known before.
func (f *StateFile) Remembered() membership.Memory { return f.Memory }

func (f *StateFile) write() error {
	b, err := json.MarshalIndent(f.state, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(f.path, append(b, '\n'), 0o644)
}

// save writes what is known to the state file, if it is new.
func (n *Node) save() {
	f := n.cfg.State
	f.mu.Lock()
	defer f.mu.Unlock()
	digest := n.cluster.State().Lasting
	if digest == f.seen {
		return
	}
	f.Memory = n.cluster.Memory()
	if err := f.write(); err != nil {
		n.log.Error("the state file can't be written: streams will be forgotten by a restart", zap.Error(err))
		return
	}
	f.seen = digest
}
