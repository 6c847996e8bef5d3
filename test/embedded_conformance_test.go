package test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"amqproxy/frame"
	"amqproxy/internal/fakebroker"
)

// embeddedCase is one conversation of embedded/*.txt, where "== NAME" begins one.
// Its lines are frames to be sent, as text, and how many are waited for: "3", or "3
// any order". "end" waits for the end of the connection. A line that begins with "b " is
// about a second connection. Of "end without words" the text of the connection.close
// does not matter. In a case whose name ends with "from the greeting" the
// script does the login too; frames in quotes are octets that are sent as they are.
type embeddedCase struct {
	name  string
	lines []string
}

// embeddedCases reads all of them.
func embeddedCases(t *testing.T) (cases []embeddedCase) {
	t.Helper()
	files, err := filepath.Glob("embedded/*.txt")
	sessionMust(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		sessionMust(t, err)
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			name, begins := strings.CutPrefix(line, "== ")
			switch {
			case begins:
				area := strings.TrimSuffix(filepath.Base(file), ".txt")
				cases = append(cases, embeddedCase{name: area + ": " + name})
			case line != "" && line[0] != '#':
				c := &cases[len(cases)-1]
				c.lines = append(c.lines, line)
			}
		}
	}
	return cases
}

// embeddedPlay is a case being played.
type embeddedPlay struct {
	t       *testing.T
	addr    string
	vhost   string
	raw     bool // without a login
	conns   map[string]*rawConn
	pending map[string][]byte // what is sent before the next wait, in one write
	heard   []string
}

// play plays a case on a broker and gives what was heard.
func (c embeddedCase) play(t *testing.T, addr, vhost string) []string {
	t.Helper()
	p := &embeddedPlay{t: t, addr: addr, vhost: vhost, raw: strings.HasSuffix(c.name, "from the greeting"),
		conns: map[string]*rawConn{}, pending: map[string][]byte{}}
	for _, line := range c.lines {
		p.line(line)
	}
	for _, name := range []string{"a", "b"} {
		conn := p.conns[name]
		if conn == nil {
			continue
		}
		p.flush(name)
		if !p.raw {
			conn.send("0 connection.close reply-code=200")
			p.rest(name)
		}
	}
	return p.heard
}

func (p *embeddedPlay) line(line string) {
	p.t.Helper()
	name := "a"
	if rest, other := strings.CutPrefix(line, "b "); other {
		name, line = "b", rest
	}
	p.conn(name)
	count, order, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(count)
	switch {
	case line == "end", line == "end without words":
		p.flush(name)
		p.rest(name)
		delete(p.conns, name)
		if line != "end" {
			last := &p.heard[len(p.heard)-2]
			*last = embeddedWords.ReplaceAllString(*last, `reply-text="…"`)
		}
	case err == nil && (order == "" || order == "any order"):
		p.flush(name)
		p.wait(name, n, order != "")
	case line[0] == '"':
		octets, err := strconv.Unquote(line)
		sessionMust(p.t, err)
		p.pending[name] = append(p.pending[name], octets...)
	default:
		line = strings.ReplaceAll(line, "VHOST", p.vhost)
		p.pending[name] = append(p.pending[name], streamFrames(p.t, line)...)
	}
}

// conn is a connection, made when it is first named.
func (p *embeddedPlay) conn(name string) *rawConn {
	p.t.Helper()
	if p.conns[name] == nil {
		p.conns[name] = rawDial(p.t, p.addr)
		if !p.raw {
			p.conns[name].login(rawLogin{vhost: p.vhost, properties: frame.Table{}.AppendTable("capabilities",
				frame.Table{}.AppendFlag("consumer_cancel_notify", true))})
		}
	}
	return p.conns[name]
}

func (p *embeddedPlay) flush(name string) {
	p.t.Helper()
	if b := p.pending[name]; len(b) > 0 {
		p.conns[name].write(b)
		p.pending[name] = nil
	}
}

func (p *embeddedPlay) wait(name string, count int, anyOrder bool) {
	p.t.Helper()
	var got []string
	for range count {
		f, err := p.conns[name].poll(streamPatience)
		for err == nil && f.Type() == frame.TypeHeartbeat {
			f, err = p.conns[name].poll(streamPatience)
		}
		if err != nil {
			got = append(got, fmt.Sprintf("%s: nothing, but %v", name, err))
			break
		}
		got = append(got, p.normal(name, f))
	}
	if anyOrder {
		slices.Sort(got)
	}
	p.heard = append(p.heard, got...)
}

// rest hears what comes until the socket is closed, or close-ok.
func (p *embeddedPlay) rest(name string) {
	p.t.Helper()
	for {
		f, err := p.conns[name].poll(streamPatience)
		if err != nil {
			p.heard = append(p.heard, name+" is closed")
			return
		}
		if f.Type() != frame.TypeHeartbeat {
			p.heard = append(p.heard, p.normal(name, f))
		}
		switch {
		case f.Type() == frame.TypeMethod && f.Method() == frame.ConnectionCloseOk:
			return
		case f.Type() == frame.TypeMethod && f.Method() == frame.ConnectionClose:
			p.conns[name].send("0 connection.close-ok")
		}
	}
}

var (
	embeddedMade  = regexp.MustCompile(`amq\.(gen|ctag)-[A-Za-z0-9_-]{22}`)
	embeddedTime  = regexp.MustCompile(`(?:04)?74696d6554[0-9a-f]{16}`)
	embeddedWords = regexp.MustCompile(`reply-text="(\\.|[^"])*"`)
	embeddedHi    = regexp.MustCompile(`server-properties=\{.*\} mechanisms`)
)

// normal is a frame without what differs from one run to the next: the names that a
// broker makes, the vhost's, the time in x-death, and who the broker is.
func (p *embeddedPlay) normal(name string, f frame.Frame) string {
	text := embeddedMade.ReplaceAllString(f.String(), "amq.$1-?")
	text = embeddedTime.ReplaceAllString(text, "(time)")
	text = embeddedHi.ReplaceAllString(text, "server-properties={…} mechanisms")
	return name + " " + strings.ReplaceAll(text, p.vhost, "VHOST")
}

// TestEmbeddedConformance: the embedded broker says what RabbitMQ says, frame by
// frame.
func TestEmbeddedConformance(t *testing.T) {
	t.Parallel()
	cases := embeddedCases(t)
	if len(cases) < 200 {
		t.Errorf("there are %d cases, want at least 200", len(cases))
	}
	run := strings.ToLower(rand.Text()[:8])
	vhost := func(i int) string { return fmt.Sprintf("embedded-%s-%03d", run, i) }
	s := embeddedStart(t, func(s *fakebroker.Server) {
		for i := range cases {
			s.VHosts = append(s.VHosts, vhost(i))
		}
	})
	var made sync.Mutex // one vhost at a time: they are costly
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			made.Lock()
			rabbit.AddVHost(t, vhost(i))
			made.Unlock()
			want := c.play(t, rabbit.Addr(), vhost(i))
			got := c.play(t, s.Addr(), vhost(i))
			if !slices.Equal(want, got) {
				t.Errorf("of\n%s\nRabbitMQ says\n%s\nand the embedded broker\n%s", strings.Join(c.lines, "\n"), strings.Join(want, "\n"), strings.Join(got, "\n"))
			}
		})
	}
}
