package test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// imports is who may import whom, as the README's picture of the packages has it:
// of our own packages, and of the libraries that have a place of their own.
var imports = map[string][]string{
	"frame":               {},
	"shard":               {"xxhash"},
	"intercept":           {"frame", "shard"},
	"internal/keeper":     {"frame", "shard", "amqp091-go"},
	"internal/node":       {"shard", "membership", "internal/keeper", "zap"},
	"membership":          {"memberlist", "zap"},
	"internal/proxy":      {"frame", "shard", "intercept", "zap"},
	"internal/config":     {"shard"},
	"internal/admin":      {"internal/node", "internal/proxy"},
	"internal/fakebroker": {"frame"},
	"examples/failover":   {"internal/fakebroker", "amqp091-go"},
	"internal/daemon":     {"internal/admin", "internal/config", "internal/keeper", "internal/node", "internal/proxy", "membership", "zap"},
	"internal/demo":       {"shard", "internal/config", "internal/daemon", "internal/fakebroker", "amqp091-go", "zap"},
	"cmd/amqproxy":        {"internal/config", "internal/daemon", "internal/demo", "internal/fakebroker", "internal/node", "zap"},
}

// placed are the libraries that only some may import.
var placed = map[string]string{
	"github.com/cespare/xxhash/v2":    "xxhash",
	"github.com/rabbitmq/amqp091-go":  "amqp091-go",
	"go.uber.org/zap":                 "zap",
	"go.uber.org/zap/zapcore":         "zap",
	"github.com/hashicorp/memberlist": "memberlist",
}

// impure are what a pure package has no business with.
var impure = []string{"os", "log", "log/slog", "net/http", "syscall", "context"}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "amqproxy/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "amqproxy/")
		if name == "test" || strings.HasPrefix(name, "test/") {
			continue
		}
		seen[name] = true
		allowed, known := imports[name]
		if !known {
			t.Errorf("package %s is not in the table of imports", name)
		}
		for _, i := range p.Imports {
			what, ours := strings.CutPrefix(i, "amqproxy/")
			if lib := placed[i]; lib != "" {
				what, ours = lib, true
			}
			if ours && !slices.Contains(allowed, what) {
				t.Errorf("%s must not import %s", name, what)
			}
			if slices.Contains([]string{"frame", "shard", "intercept"}, name) && slices.Contains(impure, i) {
				t.Errorf("%s is pure and must not import %s", name, i)
			}
		}
	}
	for name := range imports {
		if !seen[name] && name != "" {
			t.Errorf("package %s of the table of imports is not there", name)
		}
	}
}
