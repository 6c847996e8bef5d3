package membership

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestForeignersStayOut: a member with another label or another key, or with none
// where there is one, joins nobody and learns nothing, and both sides say why.
func TestForeignersStayOut(t *testing.T) {
	key := func(b byte, size int) []byte { return bytes.Repeat([]byte{b}, size) }
	for name, c := range map[string]struct {
		home, foreign Config
		says          string // in the log of the one that stays out
		hears         string // in the log of the other
		in            bool
	}{
		"same label and key":    {home: Config{Label: "blue", SecretKey: key(1, 32)}, foreign: Config{Label: "blue", SecretKey: key(1, 32)}, in: true},
		"same short key":        {home: Config{SecretKey: key(1, 16)}, foreign: Config{SecretKey: key(1, 16)}, in: true},
		"other label":           {home: Config{Label: "blue"}, foreign: Config{Label: "red"}, says: "failed to join", hears: `unacceptable label "red"`},
		"no label":              {home: Config{Label: "blue"}, foreign: Config{}, says: "failed to join", hears: `unacceptable label ""`},
		"other label, same key": {home: Config{Label: "blue", SecretKey: key(1, 32)}, foreign: Config{Label: "red", SecretKey: key(1, 32)}, says: "failed to join", hears: `unacceptable label "red"`},
		"other key":             {home: Config{SecretKey: key(1, 32)}, foreign: Config{SecretKey: key(2, 32)}, says: "could decrypt", hears: "could decrypt"},
		"no key":                {home: Config{SecretKey: key(1, 32)}, foreign: Config{}, says: "encryption is not configured", hears: "not encrypted"},
		"key where none is":     {home: Config{}, foreign: Config{SecretKey: key(1, 32)}, says: "not encrypted", hears: "encryption is not configured"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNetwork(t, "home", "foreign")
				heard, homeLog := observer.New(zapcore.WarnLevel)
				said, foreignLog := observer.New(zapcore.WarnLevel)
				n.log = heard
				home := n.start(t, "home", c.home)
				n.log = said
				foreign := n.start(t, "foreign", c.foreign, "home")
				home.Set("stream/x", "home")
				foreign.Set("stream/y", "foreign")
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if k, err := foreign.Join(ctx); (k > 0) != c.in || err != nil {
					t.Fatalf("joined %d, %v", k, err)
				}
				if c.in {
					eventually(t, time.Second, agree([]*node{home, foreign}, 2))
					return
				}
				tries := mentions(homeLog, c.hears)
				time.Sleep(time.Minute) // in which it tries to join again
				if mentions(homeLog, c.hears) <= tries {
					t.Errorf("it has tried no more: %v", homeLog.All())
				}
				if got := value(home, "stream/y") + value(foreign, "stream/x"); got != "" {
					t.Fatalf("a foreign fact came in: %s", got)
				}
				if home.alive() != 1 || foreign.alive() != 1 {
					t.Fatal("a foreigner is a member")
				}
				if mentions(foreignLog, c.says) == 0 {
					t.Errorf("who stays out does not say %q: %v", c.says, foreignLog.All())
				}
				if tries == 0 {
					t.Errorf("who keeps it out does not say %q: %v", c.hears, homeLog.All())
				}
			})
		})
	}
}

// mentions counts the lines with a text in them or in their error.
func mentions(log *observer.ObservedLogs, text string) (lines int) {
	for _, e := range log.All() {
		err, _ := e.ContextMap()["error"].(string)
		if strings.Contains(strings.ToLower(e.Message+" "+err), strings.ToLower(text)) {
			lines++
		}
	}
	return lines
}
