package intercept

import (
	"fmt"
	"slices"
)

// checkFeeds compares what a Conn counts of its readers with what there is; "" if all is
// right.
func checkFeeds(c *Conn) string {
	quiet := map[*reader]int{}
	for _, u := range c.unwritten {
		quiet[u.from]++
	}
	unacked := map[*member]int{}
	for _, ch := range c.channels {
		if ch == nil || ch.feed == nil {
			continue
		}
		if wrong := ch.feed.check(quiet, unacked); wrong != "" {
			return fmt.Sprintf("channel %d: %s", ch.number, wrong)
		}
	}
	for _, m := range c.members {
		if wrong := m.check(); wrong != "" {
			return fmt.Sprintf("member %d: %s", m.number, wrong)
		}
		if m.ch.feed != nil && m.unacked != unacked[m] {
			return fmt.Sprintf("member %d: %d messages are not settled, counted are %d", m.number, unacked[m], m.unacked)
		}
	}
	for _, l := range c.links {
		for n, r := range l.readers {
			if r != nil && (r.link != l || int(r.number) != n || r.stage == readerWaiting || r.stage == readerGone) {
				return fmt.Sprintf("link %d, channel %d: a reader at stage %d with number %d", l.index, n, r.stage, r.number)
			}
		}
	}
	return ""
}

// check counts what is not settled, by reader and by member.
func (f *feed) check(quiet map[*reader]int, unacked map[*member]int) string {
	held := make([]int, len(f.sources))
	for e := range f.unsettled {
		held[e.from]++
	}
	for i, r := range f.sources {
		if r == nil {
			continue
		}
		if r.m != nil {
			unacked[r.m] += held[i]
		}
		if held[i]+quiet[r] != r.unacked {
			return fmt.Sprintf("reader %d: %d messages are not settled, counted are %d", i, held[i]+quiet[r], r.unacked)
		}
	}
	return ""
}

// check looks at whose turn it is: those for whom messages wait, and nobody else.
func (m *member) check() string {
	if m.left && len(m.readers) == 0 {
		return "it has left and has nothing"
	}
	for _, r := range m.readers {
		if waits, turns := len(r.waiting) > 0, slices.Contains(m.ready, r); waits != turns {
			return fmt.Sprintf("%s: messages wait: %v, it has a turn: %v", r.shard.Queue, waits, turns)
		}
		if r.stage == readerGone || r.source == 0 && !m.left {
			return fmt.Sprintf("%s: at stage %d, source %d", r.shard.Queue, r.stage, r.source)
		}
	}
	for i, r := range m.ready {
		if slices.Contains(m.ready[:i], r) || !slices.Contains(m.readers, r) {
			return fmt.Sprintf("%s: it is no reader, or has two turns", r.shard.Queue)
		}
	}
	return ""
}
