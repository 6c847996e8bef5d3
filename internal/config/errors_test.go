package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// TestErrors compares the whole report on each file with the golden one.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Load(file)
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v", err)
			}
			got := err.Error() + "\n"
			if strings.Contains(got, "hunter2") {
				t.Error("the report shows a password")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTooMuch(t *testing.T) {
	tests := map[string]struct{ src, want string }{
		"bytes":  {strings.Repeat("# a comment\n", 100_000), "f:1:1: the file is larger than 1048576 bytes\n"},
		"tokens": {"loopback-users: [" + strings.Repeat("a,", 25_000) + "]", "f:1:1: the file has more than 50000 YAML tokens\n"},
		"errors": {lines(1000), "\n(only the first 100 errors are shown)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f", []byte(test.src))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %.300v", err)
			}
		})
	}
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "key%d: x\n", i)
	}
	return b.String()
}

func TestMask(t *testing.T) {
	tests := []struct{ line, want string }{
		{"local-password: s3cret # x", "local-password: ***"},
		{"  'local-password' : s3cret", "  'local-password' : ***"},
		{"{local-username: u, local-password: s3cret, x: y}", "{local-username: u, local-password: ***"},
		{"LOCAL_PASSWD: s3cret", "LOCAL_PASSWD: ***"},
		{"local-pword: s3cret", "local-pword: ***"},
		{"local-password:", "local-password:"},
		{"local-password-file: /run/secret", "local-password-file: /run/secret"},
		{"pattern: ^x", "pattern: ^x"},
		{"broker: amqp://u:s3cret@host", "broker: amqp://***@host"},
		{"  local-password: >\n    s3cret\n\n    more\n  node: x", "  local-password: ***\n    ***\n\n    ***\n  node: x"},
	}
	for _, test := range tests {
		if got := strings.Join(mask(strings.Split(test.line, "\n")), "\n"); got != test.want {
			t.Errorf("mask(%q) = %q, not %q", test.line, got, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{example, "testdata/*.yaml", "testdata/errors/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	for _, src := range []string{"a: [", "{{},<<}", "0::", "? ", "- - -", "a:\n- b: c\n-", "%YAML 1.1 {}", "a: 0_", "\x00", "|\n", "policies: [-]"} {
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("f", src)
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
		if err == nil {
			return
		}
		for _, e := range err.(Errors) {
			if e.Line < 1 || e.Column < 1 || e.Text == "" || e.Error() == "" {
				t.Errorf("a problem without a place or a text: %#v", e)
			}
		}
	})
}
