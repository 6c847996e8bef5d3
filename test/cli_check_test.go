package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"amqproxy/test/daemon"
)

// cliFile writes a file for the test's command.
func cliFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	sessionMust(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// cliBroken has a fault on each line that ends in "# fault".
const cliBroken = `node: 5@here
listen: 5670 # fault
broker: http://127.0.0.1:5672 # fault
stat-dir: /var/lib/amqproxy # fault
admin:
  listen: 127.0.0.1:15670
parameters:
  shards-per-node: 1.5 # fault
  routing-key: "0" # fault
definitions:
  good: {}
  weights:
    routing-key: "-1" # fault
  more:
    shards-per-node: 0 # fault
    routing-key: "1.5" # fault
    hash-on: header # fault
    queue-declare: maybe # fault
    colour: red # fault
  absurd:
    routing-key: "99999999999999999999" # fault
policies:
  - {name: a, pattern: '^shard\.', stream-definition: good}
  - {name: b, pattern: '(unclosed', stream-definition: good} # fault
  - {name: c, pattern: '^c', stream-definition: missing} # fault
  - {name: d, pattern: '^d', priority: high} # fault
limits:
  handshake-timeout: 10 # fault
  write-timeout: -1s # fault
  frame-max: 4095 # fault
  max-connections: -1 # fault
log:
  level: loud # fault
`

var cliPlace = regexp.MustCompile(`(?m)^(?:amqproxy: )?.*\.yaml:(\d+):(\d+): .`)

// TestCLICheckBroken: check tells all faults of a file at once, each with its
// line, the line's text and a caret below the fault, and so does run.
func TestCLICheckBroken(t *testing.T) {
	t.Parallel()
	file := cliFile(t, "broken.yaml", cliBroken)
	lines := strings.Split(cliBroken, "\n")
	var want []int
	for i, line := range lines {
		if strings.HasSuffix(line, "# fault") {
			want = append(want, i+1)
		}
	}
	for _, command := range []string{"check", "run"} {
		stdout, said, code := daemon.Run(t, command, "-c", file)
		if code != 1 || stdout != "" {
			t.Errorf("%s: exit code %d and %q on stdout, want 1 and nothing", command, code, stdout)
		}
		var got []int
		for _, m := range cliPlace.FindAllStringSubmatch(said, -1) {
			line, _ := strconv.Atoi(m[1])
			column, _ := strconv.Atoi(m[2])
			got = append(got, line)
			caret := regexp.MustCompile(fmt.Sprintf(`(?m)^( *%d \| )%s\n( *\| *)\^`, line, regexp.QuoteMeta(lines[line-1])))
			if drawn := caret.FindStringSubmatch(said); drawn == nil || len(drawn[2]) != len(drawn[1])+column-1 {
				t.Errorf("%s shows no line %d with a caret below column %d", command, line, column)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s finds faults on lines %d, want %d", command, got, want)
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", command, said)
		}
	}
}

// TestCLICheckStructure: files whose faults are in their structure.
func TestCLICheckStructure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, says string }{
		"no YAML":            {"listen: [127.0.0.1:0\n", ":1:"},
		"a list":             {"- listen\n", ":1:"},
		"a key twice":        {"listen: 127.0.0.1:0\nlisten: 127.0.0.1:1\n", ":2:"},
		"a second document":  {"listen: 127.0.0.1:0\n---\nbroker: 5\n", ":"},
		"a password alone":   {"parameters: {local-username: me}\n", ":1:"},
		"two passwords":      {"parameters: {local-username: me, local-password: a, local-password-file: b}\n", ":1:"},
		"a missing file":     {"parameters: {local-username: me, local-password-file: missing}\n", "missing"},
		"a missing variable": {"parameters: {local-username: me, local-password: \"${AMQPROXY_NO_SUCH}\"}\n", "AMQPROXY_NO_SUCH"},
		"no pattern":         {"policies: [{name: a}]\n", "pattern"},
		"a policy twice":     {"policies: [{name: a, pattern: a}, {name: a, pattern: b}]\n", ":1:"},
	} {
		t.Run(name, func(t *testing.T) {
			file := cliFile(t, "structure.yaml", tc.text)
			_, said, code := daemon.Run(t, "check", "-c", file)
			if code != 1 || !strings.Contains(said, "structure.yaml") || !strings.Contains(said, tc.says) {
				t.Errorf("exit code %d and %q, want 1 and the file's name and %q", code, said, tc.says)
			}
		})
	}
}

// TestCLICheckGood: good files are said to be good, the example among them.
func TestCLICheckGood(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../config.example.yaml")
	sessionMust(t, err)
	for name, text := range map[string]string{
		"the example": string(example),
		"empty":       "",
		"a comment":   "# nothing\n",
		"a policy":    "policies: [{name: a, pattern: '^a'}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := daemon.Run(t, "check", "-c", cliFile(t, "good.yaml", text))
			if code != 0 || stderr != "" || !strings.Contains(stdout, "good.yaml") {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 0 and the file's name on stdout", code, stdout, stderr)
			}
		})
	}
}
