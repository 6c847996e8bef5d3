package test

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"amqproxy/internal/config"
)

var (
	paritySuite = regexp.MustCompile(`^== .*: (\d+)$`)
	parityLine  = regexp.MustCompile(`^(.*?) +(test|departs|later) (.+)$`)
	parityNames = regexp.MustCompile(`\bTest[A-Z]\w*`)
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\([tf] \*testing\.[TF]\)`)
)

// TestParity: every case of the plugins' suites is in the list once, and names
// tests that there are, or says why it has none.
func TestParity(t *testing.T) {
	tests := testNames(t)
	b, err := os.ReadFile("parity.txt")
	if err != nil {
		t.Fatal(err)
	}
	suite, due, seen := "", 0, map[string]bool{}
	suites := 0
	for n, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := paritySuite.FindStringSubmatch(line); m != nil {
			if due != 0 {
				t.Errorf("line %d: %d cases are missing from %s", n+1, due, suite)
			}
			suite = line
			due, _ = strconv.Atoi(m[1])
			suites++
			continue
		}
		m := parityLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("line %d can't be read: %s", n+1, line)
			continue
		}
		due--
		if seen[suite+m[1]] {
			t.Errorf("line %d: %s is there twice", n+1, m[1])
		}
		seen[suite+m[1]] = true
		names := parityNames.FindAllString(m[3], -1)
		if len(names) == 0 && m[2] != "later" {
			t.Errorf("line %d names no test", n+1)
		}
		for _, name := range names {
			if !tests[name] {
				t.Errorf("line %d: there is no %s", n+1, name)
			}
		}
	}
	if due != 0 || suites != 5 {
		t.Errorf("%d suites, %d cases are missing from %s", suites, due, suite)
	}
}

// testNames are the names of all tests of the module.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-co", "--exclude-standard", "--full-name", ":/*_test.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range strings.Fields(string(out)) {
		b, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllSubmatch(b, -1) {
			names[string(m[1])] = true
		}
	}
	return names
}

// TestOriginalConfigurations: what the scripts of the original plugin set up, in
// the terms of our file.
func TestOriginalConfigurations(t *testing.T) {
	const policy = "\npolicies: [{name: p, pattern: '^shard\\.', stream-definition: my_stream}]\n"
	for name, c := range map[string]struct {
		yaml   string
		shards int
		weight uint32
	}{
		"test.sh":         {"definitions: {my_stream: {shards-per-node: 4}}", 4, 10000},
		"three-queues.sh": {"definitions: {my_stream: {shards-per-node: 3}}", 3, 10000},
		"rkey.sh":         {"parameters: {routing-key: \"1\"}\ndefinitions: {my_stream: {shards-per-node: 2, routing-key: \"1234\"}}", 2, 1234},
		"rkey2.sh":        {"parameters: {routing-key: \"4321\"}\ndefinitions: {my_stream: {shards-per-node: 2}}", 2, 4321},
	} {
		cfg, err := config.Parse(name, []byte(c.yaml+policy))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s, match := cfg.Rules.Match("/", "shard.logs_stream")
		if !match || s.ShardsPerNode != c.shards || s.Weight != c.weight || s.Local.User != "guest" {
			t.Errorf("%s: %+v, %v", name, s, match)
		}
	}
}
