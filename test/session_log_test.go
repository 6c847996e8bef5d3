package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"amqproxy/test/daemon"
)

// sessionEnded wants the one log line that says who ended a client's session and
// why. By is one of client, broker and proxy, or "client or proxy"
// where the one ended it because of the other.
func sessionEnded(t *testing.T, p *daemon.Proxy, client, by, why string) {
	t.Helper()
	var lines []string
	daemon.Eventually(t, streamPatience, func() error {
		lines = nil
		for line := range strings.Lines(p.Log()) {
			if strings.Contains(line, `"session ended"`) && strings.Contains(line, `"client":"`+client+`"`) {
				lines = append(lines, line)
			}
		}
		if len(lines) == 0 {
			return fmt.Errorf("no log line says why the session of %s ended", client)
		}
		return nil
	})
	if len(lines) != 1 {
		t.Errorf("want one line for the end of a session, got:\n%s", strings.Join(lines, ""))
	}
	_, said, _ := strings.Cut(lines[0], `"by":"`)
	who, said, _ := strings.Cut(said, `"`)
	if !slices.Contains(strings.Split(by, " or "), who) || !strings.Contains(said, why) {
		t.Errorf("want ended by %q and a reason with %q, got\n%s", by, why, lines[0])
	}
}

// sessionGone wants a client to be gone from what the proxy shows.
func sessionGone(t *testing.T, p *daemon.Proxy, client string) {
	t.Helper()
	daemon.Eventually(t, streamPatience, func() error {
		if _, body := p.Get("/api/v1/sessions"); strings.Contains(body, `"`+client+`"`) {
			return fmt.Errorf("%s still has a session: %s", client, body)
		}
		return nil
	})
}
