package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"amqproxy/frame"
	"amqproxy/test/daemon"
)

// sessionRows reads a list of the JSON view.
func sessionRows(t *testing.T, p *daemon.Proxy, list string) (rows []map[string]any) {
	t.Helper()
	status, body := p.Get("/api/v1/" + list)
	if err := json.Unmarshal([]byte(body), &rows); status != 200 || err != nil || rows == nil {
		t.Fatalf("/api/v1/%s says %d %q, want a JSON list (%v)", list, status, body, err)
	}
	return rows
}

// TestSessionAdminLists: each list has the fields that others rely on, with these
// types, and no list is ever null.
func TestSessionAdminLists(t *testing.T) {
	t.Parallel()
	empty := sessionProxy(t, rabbit, "")
	for _, list := range []string{"streams", "shards", "sessions"} {
		if rows := sessionRows(t, empty, list); len(rows) != 0 {
			t.Errorf("/api/v1/%s of a proxy that has seen nothing: %v", list, rows)
		}
	}
	l, _ := cliLab(t)
	for list, fields := range map[string][]string{
		"brokers":  {"node string", "address string", "reachable bool"},
		"streams":  {"vhost string", "stream string", "state string", "type string", "hash_on string", "policy string", "shards float64", "messages_published float64", "messages_delivered float64", "messages_returned float64", "methods_refused float64"},
		"shards":   {"vhost string", "stream string", "queue string", "node string", "index float64", "weight float64", "ready bool", "consumers float64"},
		"sessions": {"client string", "user string", "vhost string", "channels float64", "connected_at string", "bytes_from_client float64", "bytes_to_client float64"},
	} {
		rows := sessionRows(t, l.proxy, list)
		if len(rows) == 0 {
			t.Errorf("/api/v1/%s is empty", list)
		}
		for _, row := range rows {
			for _, field := range fields {
				name, kind, _ := strings.Cut(field, " ")
				if got := fmt.Sprintf("%T", row[name]); got != kind {
					t.Errorf("/api/v1/%s: %s is a %s, want a %s: %v", list, name, got, kind, row)
				}
			}
			for name := range row {
				if name != strings.ToLower(name) || strings.Contains(name, "-") {
					t.Errorf("/api/v1/%s: %s is not in snake case", list, name)
				}
			}
		}
	}
}

// TestSessionAdminSecrets: no password shows anywhere, neither of a client nor of
// the proxy.
func TestSessionAdminSecrets(t *testing.T) {
	t.Parallel()
	l := startStreams(t, map[string]string{"logs": "{local-username: guest, local-password: guest}"}, "log: {level: debug}")
	l.declare(t, "logs.a")
	c := rawDial(t, l.proxy.Addr())
	rawLogin{response: rawPlain("guest", "a-secret-of-a-client"), properties: rawCapabilities}.start(c)
	c.rest(8 * time.Second)
	shown := l.proxy.Log()
	for _, path := range []string{"/readyz", "/metrics", "/api/v1/brokers", "/api/v1/streams", "/api/v1/shards", "/api/v1/sessions"} {
		_, body := l.proxy.Get(path)
		shown += body
	}
	for _, secret := range []string{"a-secret-of-a-client", `password":"guest"`, "guest:guest", `\x00guest`, `\u0000guest`} {
		if strings.Contains(shown, secret) {
			t.Errorf("%q shows in the log or the admin listener", secret)
		}
	}
}

// TestSessionAdminHTTP: what the admin listener answers to, and to what it does not.
func TestSessionAdminHTTP(t *testing.T) {
	t.Parallel()
	p := sessionProxy(t, rabbit, "")
	for _, tc := range []struct {
		method, path string
		status       int
		kind         string
	}{
		{"GET", "/livez", 200, "text/plain"},
		{"GET", "/readyz", 200, "text/plain"},
		{"GET", "/metrics", 200, "text/plain"},
		{"GET", "/api/v1/brokers", 200, "application/json"},
		{"GET", "/api/v1/streams", 200, "application/json"},
		{"GET", "/api/v1/shards", 200, "application/json"},
		{"GET", "/api/v1/sessions", 200, "application/json"},
		{"HEAD", "/livez", 200, "text/plain"},
		{"GET", "/api/v1/nothing", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"POST", "/api/v1/sessions", 405, ""},
		{"DELETE", "/livez", 405, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+p.Admin()+tc.path, nil)
		sessionMust(t, err)
		resp, err := http.DefaultClient.Do(req)
		sessionMust(t, err)
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.status || !strings.HasPrefix(resp.Header.Get("Content-Type"), tc.kind) {
			t.Errorf("%s %s says %d, %s: %.100q; want %d, %s", tc.method, tc.path,
				resp.StatusCode, resp.Header.Get("Content-Type"), body, tc.status, tc.kind)
		}
	}
}

// TestSessionAdminSessions: the list of sessions follows the clients.
func TestSessionAdminSessions(t *testing.T) {
	t.Parallel()
	p, vhost := sessionProxy(t, rabbit, ""), rabbit.VHost(t)
	c, greeted := rawDial(t, p.Addr()), rawDial(t, p.Addr())
	greeted.greet()
	c.login(rawLogin{vhost: vhost})
	c.openChannel(7)
	find := func(client string) map[string]any {
		rows := sessionRows(t, p, "sessions")
		if i := slices.IndexFunc(rows, func(row map[string]any) bool { return row["client"] == client }); i >= 0 {
			return rows[i]
		}
		return nil
	}
	client := c.LocalAddr().String()
	row := find(client)
	if row["user"] != "guest" || row["vhost"] != vhost || row["channels"] != 2.0 {
		t.Errorf("got %v, want guest on %s with 2 channels", row, vhost)
	}
	sent, _ := row["bytes_from_client"].(float64)
	c.write(rawPublish(t, "none", strings.Repeat("x", 5000)))
	c.send("7 channel.close")
	c.want(frame.ChannelCloseOk)
	daemon.Eventually(t, streamPatience, func() error {
		row := find(client)
		if now, _ := row["bytes_from_client"].(float64); row["channels"] != 1.0 || now-sent < 5000 {
			return fmt.Errorf("got %v, want one channel and 5000 octets more than %v", row, sent)
		}
		return nil
	})
	c.logout()
	sessionGone(t, p, client)
}
