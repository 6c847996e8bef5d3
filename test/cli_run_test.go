package test

import (
	"path/filepath"
	"strings"
	"testing"

	"amqproxy/test/daemon"
)

// TestCLIUsage: what the command line takes, and the exit codes.
func TestCLIUsage(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	for _, tc := range []struct {
		args   string
		code   int
		stdout string // contained
		stderr string // contained
	}{
		{"version", 0, "amqproxy ", ""},
		{"--help", 0, "check", ""},
		{"help run", 0, "--config", ""},
		{"bogus", 2, "", "bogus"},
		{"--bogus", 2, "", "bogus"},
		{"run --bogus", 2, "", "bogus"},
		{"run extra", 2, "", "extra"},
		{"version extra", 2, "", "extra"},
		{"run -c", 2, "", "-c"},
		{"check", 2, "", "config"},
		{"status -o xml", 2, "", "xml"},
		{"check -c " + missing, 1, "", "missing.yaml"},
		{"run -c " + missing, 1, "", "missing.yaml"},
		{"status -c " + missing, 1, "", "missing.yaml"},
		{"status --admin 127.0.0.1:1", 3, "", "127.0.0.1:1"},
		{"status -o json --admin 127.0.0.1:1", 3, "", "127.0.0.1:1"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			stdout, stderr, code := daemon.Run(t, strings.Fields(tc.args)...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(stdout, tc.stdout) || tc.stdout == "" && stdout != "" {
				t.Errorf("stdout %q, want %q", stdout, tc.stdout)
			}
			if !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
				t.Errorf("stderr %q, want %q", stderr, tc.stderr)
			}
		})
	}
}

// TestCLIPortsInUse: run says which address it can't have, and ends.
func TestCLIPortsInUse(t *testing.T) {
	t.Parallel()
	taken := sessionListener(t).Addr().String()
	state := "\nstate-dir: " + filepath.Join(t.TempDir(), "state") + "\n"
	for name, text := range map[string]string{
		"listen": "listen: " + taken + "\nadmin: {listen: 127.0.0.1:0}",
		"admin":  "listen: 127.0.0.1:0\nadmin: {listen: " + taken + "}",
	} {
		t.Run(name, func(t *testing.T) {
			_, said, code := daemon.Run(t, "run", "-c", cliFile(t, "amqproxy.yaml", text+state))
			if code != 1 || !strings.Contains(said, taken) || !strings.Contains(said, "in use") || !strings.Contains(said, name) {
				t.Errorf("exit code %d and %q, want 1 and %s and %s in use", code, said, name, taken)
			}
		})
	}
}

// TestCLIStateDirectory: run says why it can't keep its state.
func TestCLIStateDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(cliFile(t, "a-file", ""), "state") // below what is no directory
	_, said, code := daemon.Run(t, "run", "-c", cliFile(t, "amqproxy.yaml",
		"listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\nstate-dir: "+dir))
	if code != 1 || !strings.Contains(said, dir) {
		t.Errorf("exit code %d and %q, want 1 and the directory's name", code, said)
	}
}

// TestCLIMinimal: a file with nothing but free addresses starts a proxy; the
// admin listener can be left out.
func TestCLIMinimal(t *testing.T) {
	t.Parallel()
	p := daemon.Start(t, `admin: {listen: ""}`)
	if p.Addr() == "" || p.Admin() != "" {
		t.Errorf("listens on %q, admin on %q; want only the first", p.Addr(), p.Admin())
	}
	if code := p.Stop(streamPatience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
