package demo

import (
	"fmt"
	"strings"
	"time"
)

// tone is how a text is to look.
type tone int

const (
	plain tone = iota
	dim
	strong
	good
	bad
	ofNode // and those behind it: what belongs to a node of the site
)

// span is text of one look; a line is some of them.
type span struct {
	text string
	tone tone
}

type line []span

func (l line) String() string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(s.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// viewWidth is what the view is made for, in cells.
const viewWidth = 80

func nodeTone(i int) tone { return ofNode + tone(i) }

// cell is text in a column.
func cell(width int, t tone, format string, args ...any) span {
	return span{fmt.Sprintf("%-*s", width, fmt.Sprintf(format, args...)), t}
}

func state(up bool) span {
	if up {
		return cell(8, plain, "runs")
	}
	return cell(8, bad, "dead")
}

// lines are the whole view, in at most so many lines: old events are left out. The last
// ones are foot.
func (p picture) lines(height int, foot ...line) []line {
	title := span{"amqproxy demo", strong}
	what := fmt.Sprintf("   one stream, %s, over three brokers in memory", stream)
	clock := p.at.Truncate(time.Second).String()
	all := []line{{title, {what, plain}, {strings.Repeat(" ", max(1, viewWidth-len(title.text)-len(what)-len(clock))) + clock, dim}}, {}}
	all = append(all, p.nodeLines()...)
	all = append(all, line{})
	all = append(all, p.shardLines()...)
	all = append(all, line{}, p.clientLine("producer"), p.clientLine("consumer"), line{}, p.countLine(), line{})
	for _, e := range p.events[max(0, len(p.events)-max(0, height-len(all)-len(foot))):] {
		all = append(all, e.line())
	}
	return append(all, foot...)
}

func (p picture) nodeLines() []line {
	all := []line{{cell(8, dim, "node"), cell(8, dim, "broker"), cell(8, dim, "proxy"), cell(38, dim, "for any AMQP client"), span{"status --admin", dim}}}
	for i, n := range p.nodes {
		all = append(all, line{cell(8, nodeTone(i), "%s", n.name), state(n.broker), state(n.proxy),
			cell(38, plain, "amqp://guest:guest@%s/", n.addr), span{n.admin, plain}})
	}
	return all
}

func (p picture) shardLines() []line {
	all := []line{{cell(8, dim, "shard"), cell(keyRoom, dim, "keys, by the node they are of"), cell(10, dim, "%8s", "msgs/s"), cell(10, dim, "%8s", "waiting"), span{"read by", dim}}}
	for _, s := range p.shards {
		l := line{cell(8, nodeTone(s.node), "%s.%d", nodeNames[s.node], s.index)}
		l = append(l, s.keyCells()...)
		l = append(l, cell(10, plain, "%8.0f", s.rate), cell(10, plain, "%8d", s.waiting))
		switch {
		case !s.used:
			l = append(l, span{"its broker is dead", bad})
		case s.reader == "":
			l = append(l, span{"nobody", bad})
		default:
			l = append(l, span{s.reader, plain})
		}
		all = append(all, l)
	}
	return all
}

const (
	keyRune = '■'
	keyRoom = 34 // cells for the keys of a shard, with their number behind them
)

// keyCells are a cell for each key, in the look of the node that is its home.
func (s shardPicture) keyCells() (l line) {
	shown := s.keys[:min(len(s.keys), keyRoom-4)]
	for home := range nodeNames {
		n := 0
		for _, k := range shown {
			if k == home {
				n++
			}
		}
		l = append(l, span{strings.Repeat(string(keyRune), n), nodeTone(home)})
	}
	return append(l, cell(keyRoom-len(shown), dim, " %d", len(s.keys)))
}

// clientLine shows by which proxies the clients of a kind are connected.
func (p picture) clientLine(kind string) line {
	l := line{cell(12, dim, "%ss", kind)}
	for _, c := range p.clients {
		number, is := strings.CutPrefix(c.name, kind+"-")
		switch {
		case !is:
		case c.dead:
			l = append(l, span{number + " dead   ", bad})
		case c.at == "":
			l = append(l, span{number + " ...    ", dim})
		default:
			l = append(l, span{number + " at " + c.at + "   ", plain})
		}
	}
	return l
}

func (p picture) countLine() line {
	c := p.counts
	l := line{{fmt.Sprintf("confirmed %d", c.Confirmed), strong}, {fmt.Sprintf("  %.0f/s   ", p.confirmed), dim},
		{fmt.Sprintf("delivered %d", c.Delivered), strong}, {fmt.Sprintf("  %.0f/s   ", p.delivered), dim},
		{fmt.Sprintf("on the way %d   again %d", c.lost(), c.Repeated+c.Doubled), plain}}
	if yours := c.Strange + c.Guests; yours > 0 {
		l = append(l, span{fmt.Sprintf("   yours %d", yours), good})
	}
	return l
}

func (e event) line() line {
	indent := "  "
	if e.tone == plain {
		indent = "    "
	}
	return line{{fmt.Sprintf("%6.1f s", e.at.Seconds()), dim}, {indent + e.text, e.tone}}
}

// report is what came of a run.
func (o outcome) report() []line {
	c := o.counts
	all := []line{{},
		{{fmt.Sprintf("published %d, confirmed %d, delivered %d, lost %d", c.Published, c.Confirmed, c.Delivered, c.lost()), strong}},
		{{fmt.Sprintf("published again, since no confirm came: %d", c.Again), plain}},
		{{fmt.Sprintf("delivered again: %d flagged as redelivered, %d not", c.Repeated, c.Doubled), plain}},
		{{fmt.Sprintf("out of the order of their key: %d", c.Reordered), plain}}}
	if c.Strange > 0 {
		all = append(all, line{{fmt.Sprintf("of other publishers: %d", c.Strange), plain}})
	}
	if c.Guests > 0 {
		all = append(all, line{{fmt.Sprintf("taken by other consumers: %d", c.Guests), plain}})
	}
	all = append(all, line{})
	for _, p := range o.judge() {
		mark, t := "kept    ", good
		if !p.kept {
			mark, t = "BROKEN  ", bad
		}
		all = append(all, line{{mark, t}, {p.text + ": ", plain}, {p.detail, dim}})
	}
	return all
}
