package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"amqproxy/shard"
)

const example = "../../config.example.yaml"

// settings ignores what a file's streams are, to compare all the rest.
var settings = cmpopts.IgnoreFields(Config{}, "Rules", "Streams")

func parse(t *testing.T, src string) *Config {
	t.Helper()
	c, err := Parse("amqproxy.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExampleHasTheDefaults(t *testing.T) {
	c, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, settings); diff != "" {
		t.Errorf("default and example differ:\n%s", diff)
	}
	want := shard.Parameters{
		ShardsPerNode: shard.DefaultShardsPerNode, Weight: shard.DefaultWeight,
		Local: shard.Login{User: shard.DefaultUsername, Password: shard.DefaultPassword},
	}
	if diff := cmp.Diff(want, c.Streams.Global); diff != "" {
		t.Errorf("default and example parameters differ:\n%s", diff)
	}
	got, ok := c.Rules.Match("/", "shard.orders")
	if !ok || got.Policy != "my_stream" || got.ShardsPerNode != 2 || got.Weight != 1234 || got.Local.Password != "guest" {
		t.Errorf("the example's stream is %+v, %v", got, ok)
	}
}

// TestExampleHasEveryKey walks the table of keys, so that a new one can't be
// forgotten in the example.
func TestExampleHasEveryKey(t *testing.T) {
	src, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, s setter)
	walk = func(path string, s setter) {
		switch s := s.(type) {
		case fields:
			for _, f := range s {
				if !regexp.MustCompile(`(?m)^[ #-]*` + regexp.QuoteMeta(f.key) + `:`).Match(src) {
					t.Errorf("%s%s is not in the example", path, f.key)
				}
				walk(path+f.key+".", f.to)
			}
		case checked:
			walk(path, s.fields)
		case named:
			walk(path+"NAME.", s.of("name"))
		case list:
			walk(path, s.of())
		}
	}
	walk("", Default().keys(&streams{definitions: map[string]*shard.Definition{}}))
}

func TestNothingMeansDefaults(t *testing.T) {
	sources := map[string]string{
		"empty":         "",
		"comments":      "# nothing\n\n# here\n",
		"null":          "~\n",
		"header":        "---\n",
		"empty mapping": "{}",
		"byte order":    "\ufeff# nothing",
		"null sections": "admin:\nparameters:\ndefinitions:\npolicies:\nlimits:\nlog:\n",
	}
	for name, src := range sources {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(Default(), parse(t, src), settings); diff != "" {
				t.Error(diff)
			}
		})
	}
	c, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, settings); diff != "" {
		t.Error(diff)
	}
}

func TestLoadReportsAMissingFile(t *testing.T) {
	if _, err := Load("testdata/none.yaml"); err == nil || !strings.Contains(err.Error(), "testdata/none.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestParseReadsEverything(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Node: "rabbit1@host", Listen: ":5670", Broker: "[::1]:5672", StateDir: "state",
		BrokerAdvertise: "10.0.0.1:5672",
		Gossip:          Gossip{Listen: ":7946", Advertise: "10.0.0.1:7946", Join: []string{"a:7946", "b:7946"}, Label: "blue", Secret: Secret("0123456789abcdef")},
		LoopbackUsers:   []string{},
		Limits:          Limits{1e9, 2e9, 3e9, 90e9, 4e9, 5e9, 1000, 10, 50, 6e9, 7e9, 8e9, 9e9, 11e9, 2, 500, 4096},
		Log:             Log{slog.LevelDebug, "json"},
	}
	if diff := cmp.Diff(want, c, settings); diff != "" {
		t.Error(diff)
	}
	got, ok := c.Rules.Match("any", "a.b")
	if !ok {
		t.Fatal("a.b is not a stream")
	}
	stream := &shard.Settings{Policy: "all", Definition: shard.Definition{
		Parameters:  shard.Parameters{ShardsPerNode: 3, Weight: 7, Local: shard.Login{User: "u", Password: "from a file"}},
		HashOn:      shard.HashOn{Source: shard.HashHeader, Header: "tenant"},
		QueuePrefix: "sharding: ",
		QueueArguments: map[string]any{
			"x-queue-type": "classic", "x-max-priority": int64(5), "x-single-active-consumer": true, "x-unheard-of": int64(-1),
		},
		ConsumePick: shard.PickRandom, QueueDeclare: shard.DeclareAnswer, QueueBind: shard.BindAcceptOwn,
		QueuePurge: shard.SetAll, QueueDelete: shard.SetAll, Persist: true, RetryNacked: true, OnUnavailable: shard.Wait,
		HashLocal: true, Consumers: shard.ConsumeBalanced, PublishAs: shard.Login{User: "robot", Password: "beep"},
	}}
	if diff := cmp.Diff(stream, got); diff != "" {
		t.Error(diff)
	}
	if got, ok := c.Rules.Match("other", "plain"); !ok || got.Local.Password != "globally" || got.ShardsPerNode != 4 {
		t.Errorf("plain got %+v, %v", got, ok)
	}
}

func TestLinesEndAsTheyLike(t *testing.T) {
	unix := "\nnode: a@b\n\nlog:\n  level: debug\n  formt: json\n"
	for _, end := range []string{"\n", "\r\n", "\r"} {
		_, err := Parse("f", []byte(strings.ReplaceAll(unix, "\n", end)))
		if err == nil || !strings.HasPrefix(err.Error(), "f:6:3: log: unknown key \"formt\"; did you mean \"format\"?\n") {
			t.Errorf("with %q: %v", end, err)
		}
	}
}

func TestPasswordFromEnvironment(t *testing.T) {
	t.Setenv("AMQPROXY_TEST_PASSWORD", "pa$$: word")
	c := parse(t, "parameters: {local-username: u, local-password: '${AMQPROXY_TEST_PASSWORD}'}\npolicies: [{name: p, pattern: .}]")
	if s, _ := c.Rules.Match("/", "x"); string(s.Local.Password) != "pa$$: word" {
		t.Errorf("got %q", string(s.Local.Password))
	}
	c = parse(t, "parameters: {local-username: u, local-password: 'a${HOME}'}\npolicies: [{name: p, pattern: .}]")
	if s, _ := c.Rules.Match("/", "x"); string(s.Local.Password) != "a${HOME}" {
		t.Errorf("got %q; only a whole value is replaced", string(s.Local.Password))
	}
}

func TestPrintedConfigHidesPasswords(t *testing.T) {
	const secret = "hunter2"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pw"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse(filepath.Join(dir, "f.yaml"), []byte(`
parameters: {local-username: u, local-password: hunter2}
definitions: {d: {local-username: u, local-password-file: pw}}
policies: [{name: p, pattern: ., stream-definition: d}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := c.Rules.Match("/", "x"); string(s.Local.Password) != secret {
		t.Fatalf("the rules have %q", string(s.Local.Password))
	}
	js, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprintf("%v %+v %#v", c, c, c), fmt.Sprintf("%v %+v %#v", *c, *c, *c), string(js)} {
		if strings.Contains(out, secret) || !strings.Contains(out, masked) {
			t.Errorf("printed: %s", out)
		}
	}
}
