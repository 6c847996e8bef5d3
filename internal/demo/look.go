package demo

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"
)

// look is how a tone is shown; without a color it is that of all text.
type look struct {
	color string
	bold  bool
}

var looks = map[tone]look{
	dim:         {color: "#7d8590"},
	strong:      {bold: true},
	good:        {color: "#3fa34d"},
	bad:         {color: "#e5534b", bold: true},
	nodeTone(0): {color: "#4a90d9"},
	nodeTone(1): {color: "#d9a02b"},
	nodeTone(2): {color: "#b267c9"},
}

func (l look) style() tcell.Style {
	style := tcell.StyleDefault.Bold(l.bold)
	if l.color != "" {
		style = style.Foreground(tcell.GetColor(l.color))
	}
	return style
}

// Measures of the SVG, in pixels.
const (
	svgCell   = 8.4
	svgLine   = 19
	svgMargin = 18
)

// svg draws lines as a terminal shows them. Each span has its place and its length, so
// that columns stay columns in any font.
func svg(lines []line) []byte {
	var b strings.Builder
	width, height := viewWidth*svgCell+2*svgMargin, len(lines)*svgLine+2*svgMargin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" xml:space="preserve" font-family="ui-monospace,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="14" fill="#d1d7e0">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#15191f"/>`+"\n")
	for i, l := range lines {
		column := 0
		for _, s := range l {
			text := strings.TrimRight(s.text, " ")
			begin := len(text) - len(strings.TrimLeft(text, " "))
			if text = text[begin:]; text != "" {
				fmt.Fprintf(&b, `<text x="%.1f" y="%d" textLength="%.1f"%s>`, svgMargin+float64(column+begin)*svgCell,
					svgMargin+svgLine*i+svgLine*3/4, float64(utf8.RuneCountInString(text))*svgCell, looks[s.tone].attributes())
				xml.EscapeText(&b, []byte(text)) // a Builder takes everything
				b.WriteString("</text>\n")
			}
			column += utf8.RuneCountInString(s.text)
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func (l look) attributes() (text string) {
	if l.color != "" {
		text += fmt.Sprintf(` fill=%q`, l.color)
	}
	if l.bold {
		text += ` font-weight="bold"`
	}
	return text
}
