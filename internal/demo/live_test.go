package demo

import (
	"sync"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"
)

// TestWatch: keys ask for what they say, and the last ends it; the screen shows the view.
func TestWatch(t *testing.T) {
	screen := tcell.NewSimulationScreen("UTF-8")
	if err := screen.Init(); err != nil {
		t.Fatal(err)
	}
	defer screen.Fini()
	screen.SetSize(80, 40)
	d := &director{story: &story{site: &site{}, ledger: newLedger(nil), began: time.Now()}, keys: make(chan rune, 1), alone: true}
	events := make(chan tcell.Event)
	var watching sync.WaitGroup
	watching.Go(func() { watch(t.Context(), d, screen, events) })
	press := func(r rune) { events <- tcell.NewEventKey(tcell.KeyRune, r, 0) }
	press('b')
	press('p') // while it is busy with the first
	press('x')
	press('q')
	watching.Wait()
	if key := <-d.keys; key != 'b' {
		t.Errorf("asked for %q", key)
	}
	if len(d.keys) > 0 || d.byItself() {
		t.Errorf("%d more keys; by itself: %t", len(d.keys), d.byItself())
	}
	d.ask(' ')
	if !d.byItself() {
		t.Error("it does not go on by itself")
	}
	cells, width, _ := screen.GetContents()
	first := ""
	for _, c := range cells[:width] {
		first += string(c.Runes)
	}
	if want := "amqproxy demo   one stream, shard.orders"; len(first) < len(want) || first[:len(want)] != want {
		t.Errorf("the first line is %q", first)
	}
}
