package intercept

import (
	"testing"
	"unicode/utf8"
)

// TestUpTag: who consumes anew has a tag of the same length that can be told from its
// neighbours', and is text as before.
func TestUpTag(t *testing.T) {
	for tag, want := range map[string]string{
		"consumer-4": "Consumer-4", "C": "c", "amq.ctag-Zz": "Amq.ctag-Zz", "Zoë": "zoë", "[": "Z", "@": "A", "{x": "{y", "4": "5", "été": "étè",
	} {
		r := &reader{m: &member{tag: tag}}
		if got := r.upTag(); got != tag {
			t.Errorf("%q consumes with %q at first", tag, got)
		}
		r.varied = true
		if got := r.upTag(); got == tag || len(got) != len(tag) || !utf8.ValidString(got) {
			t.Errorf("%q consumes anew with %q", tag, got)
		} else if want != got {
			t.Errorf("%q consumes anew with %q, want %q", tag, got, want)
		}
	}
}
