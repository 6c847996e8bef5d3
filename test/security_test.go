package test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	securityLine  = regexp.MustCompile(`^(\S+) +(test|none) (.+)$`)
	securityNames = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`)
)

// TestSecurity: every advisory is in the list once, as are the ways to be a broken
// peer and the points of greater strictness, and each names tests that there are, or
// says why it has none.
func TestSecurity(t *testing.T) {
	tests := testNames(t)
	b, err := os.ReadFile("security.txt")
	sessionMust(t, err)
	section, due, advisories := "", 0, 0
	seen := map[string]bool{}
	for n, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "    ") {
			continue
		}
		if m := paritySuite.FindStringSubmatch(line); m != nil {
			if due != 0 {
				t.Errorf("line %d: %d are missing from %s", n+1, due, section)
			}
			section = line
			due, _ = strconv.Atoi(m[1])
			continue
		}
		m := securityLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("line %d can't be read: %s", n+1, line)
			continue
		}
		due--
		if strings.HasPrefix(m[1], "CVE-") || strings.HasPrefix(m[1], "GHSA-") {
			advisories++
		}
		if seen[section+m[1]] {
			t.Errorf("line %d: %s is there twice", n+1, m[1])
		}
		seen[section+m[1]] = true
		names := securityNames.FindAllString(m[3], -1)
		if len(names) == 0 {
			t.Errorf("line %d names no test", n+1)
		}
		for _, name := range names {
			if !tests[name] {
				t.Errorf("line %d: there is no %s", n+1, name)
			}
		}
	}
	if due != 0 || advisories != securityAdvisories {
		t.Errorf("%d are missing from %s; there are %d advisories, want %d", due, section, advisories, securityAdvisories)
	}
}

// securityAdvisories is how many advisories with a number there are.
const securityAdvisories = 39
