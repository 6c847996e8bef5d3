package intercept

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the outputs in testdata anew; read the difference before you believe it")

// TestScenarios runs testdata/*.txt. A line at column 0 is an input, see script;
// the lines under it that are indented by two spaces are all that comes of it.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			single, got := run(t, string(b), false)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(strings.Split(string(b), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("outputs differ (-want +got):\n%s", diff)
			}
			batched, _ := run(t, string(b), true)
			sameBytes(t, single, batched)
		})
	}
}

// run gives the script after its last input, and its text with the outputs that
// really came.
func run(t *testing.T, text string, batched bool) (*script, string) {
	s := newScript(t, batched)
	var inputs []string // with comments and empty lines, but without outputs
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, "  ") {
			continue
		}
		inputs = append(inputs, l)
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			s.do(len(inputs), l)
		}
	}
	s.flush(len(inputs))
	var b strings.Builder
	for i, l := range inputs {
		b.WriteString(l)
		for ; len(s.result) > 0 && s.result[0].seen == i+1; s.result = s.result[1:] {
			b.WriteString("  " + s.result[0].text + "\n")
		}
	}
	return s, b.String()
}

// sameBytes: it makes no difference how the frames of one side were cut into
// batches. Where it does, a view was kept beyond its batch, or one batch took
// what is another's. Of what is for the node, the order within a batch is none.
func sameBytes(t *testing.T, single, batched *script) {
	for to, want := range single.sent {
		got := batched.sent[to]
		if to == "else" {
			got, want = sortedLines(got), sortedLines(want)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("to %s in batches:\n%s\none by one:\n%s", to, texts(to, got), texts(to, want))
		}
	}
}

func sortedLines(b []byte) []byte {
	lines := bytes.SplitAfter(b, []byte("\n"))
	slices.SortFunc(lines, bytes.Compare)
	return bytes.Join(lines, nil)
}

// TestPassthroughIsByteForByte: text leaves out what octets may differ in.
func TestPassthroughIsByteForByte(t *testing.T) {
	b, err := os.ReadFile("testdata/passthrough.txt")
	if err != nil {
		t.Fatal(err)
	}
	got, _ := run(t, string(b), true)
	want := map[string][]byte{}
	for l := range strings.Lines(string(b)) {
		for from, to := range map[string]string{"client ": "home", "home ": "client"} {
			if line, sent := strings.CutPrefix(strings.TrimSpace(l), from); sent && l[0] != ' ' {
				want[to] = append(want[to], text("%s", line)...)
			}
		}
	}
	for _, to := range []string{"home", "client"} {
		if len(want[to]) == 0 || !bytes.Equal(got.sent[to], want[to]) {
			t.Errorf("to %s:\n got %s\nwant %s", to, texts(to, got.sent[to]), texts(to, want[to]))
		}
	}
}

func texts(to string, b []byte) string {
	if to == "else" {
		return string(b)
	}
	var out strings.Builder
	for _, f := range cut(b) {
		out.WriteString(f.String() + "\n")
	}
	return out.String()
}
