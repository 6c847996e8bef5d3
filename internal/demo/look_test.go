package demo

import (
	"encoding/xml"
	"strings"
	"testing"
)

// TestSVG: the picture is well formed, whatever the text, and says it as it was.
func TestSVG(t *testing.T) {
	const nasty = `<script>alert("x")</script>&'` + "\x00"
	image := svg([]line{{{"  " + nasty + "  ", bad}, {"next", nodeTone(2)}}, {}})
	var texts []string
	d := xml.NewDecoder(strings.NewReader(string(image)))
	for {
		token, err := d.Token()
		if token == nil {
			if err.Error() != "EOF" {
				t.Fatal(err)
			}
			break
		}
		switch e := token.(type) {
		case xml.StartElement:
			if e.Name.Local == "script" {
				t.Error("text became an element")
			}
		case xml.CharData:
			if s := strings.TrimSpace(string(e)); s != "" {
				texts = append(texts, s)
			}
		}
	}
	want := strings.ReplaceAll(nasty, "\x00", "\uFFFD")
	if len(texts) != 2 || texts[0] != want || texts[1] != "next" {
		t.Errorf("it says %q", texts)
	}
}
