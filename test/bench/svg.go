package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// plot is horizontal bars in groups.
type plot struct {
	Title, Note string
	Groups      []group
	unit        string
}

type group struct {
	Name string
	Bars []bar
	Y    int
}

type bar struct {
	Path, Text, Color      string
	Y, TextY, Width, TextX int
}

// The measures of a plot, in pixels.
const (
	plotLeft  = 150
	plotWidth = 480
	barHeight = 18
	groupGap  = 34
	plotTop   = 56
)

var colors = map[string]string{direct: "#9aa5b1", haproxy: "#5b7db1", amqproxy: "#d9822b", stream: "#b0413e", links: "#7a4b8f"}

var svg = template.Must(template.New("svg").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {{.Height}}" font-family="sans-serif" font-size="12">
<rect width="780" height="{{.Height}}" fill="#fff"/>
<text x="16" y="24" font-size="15" font-weight="bold">{{.Title}}</text>
<text x="16" y="42" fill="#555">{{.Note}}</text>
{{range .Groups}}<text x="16" y="{{.Y}}" font-weight="bold">{{.Name}}</text>
{{range .Bars}}<text x="142" y="{{.TextY}}" text-anchor="end" fill="#333">{{.Path}}</text><rect x="150" y="{{.Y}}" width="{{.Width}}" height="14" fill="{{.Color}}"/><text x="{{.TextX}}" y="{{.TextY}}" fill="#333">{{.Text}}</text>
{{end}}{{end}}</svg>
`))

// plots are what the README shows.
func (r report) plots(dir string) error {
	fs := figures{r.Figures}
	cpu := plot{Title: "CPU of the proxy per message", unit: "µs", Note: "µs of user and system time; median over the rounds. Shorter is better."}
	for _, g := range [][2]string{{"publish, 100 B", "sink: publish 100 B"}, {"publish with confirms, 100 B", "sink: publish with confirms 100 B"}, {"deliver, 200 B", "sink: deliver 200 B"}} {
		cpu.add(&fs, g[0], g[1], cpuPerMessage)
	}
	latency := plot{Title: "From publish to delivery", unit: "µs", Note: "µs at 5000 messages/s of 200 B; median over the rounds. Shorter is better."}
	for _, target := range []string{sink, rabbit} {
		latency.add(&fs, target+", p50", target+": latency at 5000/s 200 B", latency50)
		latency.add(&fs, target+", p99", target+": latency at 5000/s 200 B", latency99)
	}
	for name, p := range map[string]plot{"bench-cpu.svg": cpu, "bench-latency.svg": latency} {
		if len(p.Groups) == 0 {
			continue
		}
		if err := p.write(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *plot) add(fs *figures, name, scenario string, m metric) {
	g := group{Name: name}
	longest := 0.0
	for _, path := range pathsAndFar {
		if f := fs.find(scenario, path, m); f != nil {
			longest = max(longest, f.Median)
		}
	}
	for _, path := range pathsAndFar {
		if f := fs.find(scenario, path, m); f != nil {
			width := int(f.Median / longest * plotWidth)
			g.Bars = append(g.Bars, bar{Path: path, Text: short(f.Median) + " " + p.unit, Color: colors[path], Width: width, TextX: plotLeft + width + 6})
		}
	}
	if len(g.Bars) > 0 {
		p.Groups = append(p.Groups, g)
	}
}

// write lays the bars out and writes the file.
func (p plot) write(file string) error {
	y := plotTop
	for i := range p.Groups {
		g := &p.Groups[i]
		g.Y = y + 16
		y += 24
		for j := range g.Bars {
			g.Bars[j].Y, g.Bars[j].TextY = y, y+11
			y += barHeight
		}
		y += groupGap - 24
	}
	var b strings.Builder
	if err := svg.Execute(&b, struct {
		plot
		Height int
	}{p, y + 8}); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
