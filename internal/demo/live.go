package demo

import (
	"context"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"
)

const (
	drawEvery = 200 * time.Millisecond
	restFor   = 4 * time.Second // between two moves of the story
)

// live shows the story on the terminal, and has it go on by itself or as keys say, until a
// key ends it.
func live(ctx context.Context, s *story) error {
	screen, err := tcell.NewScreen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("the terminal: %w; there is --script", err)
	}
	screen.RegisterRuneFallback(keyRune, "#")
	d := &director{story: s, keys: make(chan rune, 1), alone: true, ended: make(chan struct{})}
	var running sync.WaitGroup
	defer running.Wait() // for the move that is under way, too
	defer close(d.ended)
	defer screen.Fini()
	events := make(chan tcell.Event)
	running.Go(func() { screen.ChannelEvents(events, d.ended) })
	running.Go(func() { d.direct(ctx) })
	watch(ctx, d, screen, events)
	return ctx.Err()
}

// watch draws the story until a key or ctx ends it.
func watch(ctx context.Context, d *director, screen tcell.Screen, events <-chan tcell.Event) {
	c := &camera{story: d.story}
	tick := time.NewTicker(drawEvery)
	defer tick.Stop()
	for {
		_, height := screen.Size()
		draw(screen, c.shoot().lines(height, line{}, d.foot()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case e := <-events:
			switch e := e.(type) {
			case *tcell.EventResize:
				screen.Sync()
			case *tcell.EventKey:
				if e.Key() == tcell.KeyCtrlC || e.Key() == tcell.KeyEscape || e.Rune() == 'q' {
					return
				}
				d.ask(e.Rune())
			}
		}
	}
}

func draw(screen tcell.Screen, lines []line) {
	screen.Clear()
	for y, l := range lines {
		x := 0
		for _, s := range l {
			screen.PutStrStyled(x, y, s.text, looks[s.tone].style())
			x += utf8.RuneCountInString(s.text)
		}
	}
	screen.Show()
}

// director makes the moves.
type director struct {
	story *story
	keys  chan rune
	ended chan struct{}

	mu    sync.Mutex
	alone bool // the story goes on by itself
}

func (d *director) direct(ctx context.Context) {
	d.story.open(ctx)
	rest := time.NewTicker(restFor)
	defer rest.Stop()
	for chapter := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-d.ended:
			return
		case key := <-d.keys:
			d.press(ctx, key)
		case <-rest.C:
			if d.byItself() {
				d.story.chapter(ctx, chapter)
				chapter++
			}
		}
		rest.Reset(restFor)
	}
}

// press kills one of a kind, or brings back what is dead of it.
func (d *director) press(ctx context.Context, key rune) {
	s := d.story
	switch key {
	case 'b':
		for i, n := range s.site.nodes {
			if !n.hasBroker() {
				s.restoreBroker(ctx, i)
				return
			}
		}
		s.killBroker(ctx, s.victim(len(s.site.nodes)))
	case 'p':
		for i, n := range s.site.nodes {
			if !n.hasProxy() {
				s.restoreProxy(ctx, i)
				return
			}
		}
		s.killProxy(ctx, s.victim(len(s.site.nodes)))
	case 'c':
		for i, c := range s.consumers {
			if !c.lives.Load() {
				s.restoreConsumer(ctx, i)
				return
			}
		}
		s.killConsumer(ctx, s.victim(len(s.consumers)))
	}
}

func (d *director) byItself() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.alone
}

// ask has the director do what a key says, unless it is busy.
func (d *director) ask(key rune) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch key {
	case ' ':
		d.alone = !d.alone
	case 'b', 'p', 'c':
		d.alone = false
		select {
		case d.keys <- key:
		default:
		}
	}
}

// foot tells what the keys do.
func (d *director) foot() line {
	mode := "by hand  "
	if d.byItself() {
		mode = "by itself  "
	}
	return line{{"b p c ", strong}, {"kill a broker, proxy or consumer, bring it back  ", dim}, {"space ", strong}, {mode, dim}, {"q ", strong}, {"end", dim}}
}
