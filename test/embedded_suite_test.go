package test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestEmbeddedSuite runs amqp091-go's own tests on the embedded broker. All pass but
// those that embedded_suite.txt names, which do not.
func TestEmbeddedSuite(t *testing.T) {
	t.Parallel()
	suite := conformanceBuild(t)
	fail, apart := embeddedExceptions(t)
	list, err := exec.Command(suite, "-test.list", ".").Output()
	sessionMust(t, err)
	for _, name := range slices.Concat(fail, apart) {
		if !slices.Contains(strings.Fields(string(list)), name) {
			t.Errorf("the list of exceptions names %s, which does not exist", name)
		}
	}
	s := embeddedStart(t)
	on := func(flag string, names ...string) conformanceRun {
		return conformanceOn(t.Context(), suite, "amqp://guest:guest@"+s.Addr()+"/", flag, "^("+strings.Join(names, "|")+")$")
	}
	var all sync.WaitGroup
	for _, name := range fail { // beside the others: they wait for what never comes
		all.Go(func() {
			if run := on("-test.run", name); len(run.passed) > 0 {
				t.Errorf("%s passes: it is no exception any more", name)
			}
		})
	}
	run := on("-test.skip", slices.Concat(fail, apart)...)
	all.Wait()
	if run.err != nil || len(run.failed) > 0 || len(run.passed) < 150 {
		t.Errorf("%d passed, failed %v (%v)\n%s", len(run.passed), run.failed, run.err, run.output)
	}
}

// embeddedExceptions reads the list: "fails NAME", or "apart NAME" of what is not run.
func embeddedExceptions(t *testing.T) (fail, apart []string) {
	t.Helper()
	text, err := os.ReadFile("embedded_suite.txt")
	sessionMust(t, err)
	for line := range strings.Lines(string(text)) {
		switch w := strings.Fields(line); {
		case len(w) == 0 || w[0] == "#":
		case len(w) == 2 && w[0] == "fails":
			fail = append(fail, w[1])
		case len(w) == 2 && w[0] == "apart":
			apart = append(apart, w[1])
		default:
			t.Errorf("embedded_suite.txt: what is %q?", line)
		}
	}
	return fail, apart
}
