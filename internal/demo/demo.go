package demo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"
)

// Options are how a demo is run.
type Options struct {
	Version string
	Log     *zap.Logger // of the proxies
	Out     io.Writer
	Script  bool // tell the story once, as plain text; else show it on a terminal until a key ends it
}

// ErrBroken is a promise that was not kept.
var ErrBroken = errors.New("a promise was broken")

// Run runs a demo.
func Run(ctx context.Context, o Options) (err error) {
	show := func(l line) { fmt.Fprintln(o.Out, l) }
	show(line{{"three brokers in memory, three proxies, and one stream, " + stream, strong}})
	s, err := begin(ctx, o.Version, o.Log)
	defer func() { err = errors.Join(err, s.close()) }()
	if err != nil {
		return err
	}
	show(line{})
	for _, l := range (&camera{story: s}).shoot().nodeLines() {
		show(l)
	}
	show(line{})
	tell := func(e event) { show(e.line()) }
	if o.Script {
		s.tellTo(tell)
		s.open(ctx)
		for i := range chapters {
			if ctx.Err() == nil {
				s.chapter(ctx, i)
			}
		}
	} else if err := live(ctx, s); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.tellTo(tell)
	end := s.finish(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, l := range end.report() {
		show(l)
	}
	if !kept(end.judge()) {
		return ErrBroken
	}
	return nil
}

// Picture runs a demo up to the moment at which there is most to see, and gives that as an
// SVG.
func Picture(ctx context.Context, log *zap.Logger) (image []byte, err error) {
	s, err := begin(ctx, "picture", log)
	defer func() { err = errors.Join(err, s.close()) }()
	if err != nil {
		return nil, err
	}
	s.open(ctx)
	for i := range chapters + 1 {
		s.chapter(ctx, i)
	}
	c := &camera{story: s}
	c.shoot() // for the rates
	if _, err := s.flow(ctx); err != nil {
		return nil, err
	}
	return svg(c.shoot().lines(pictureHeight)), ctx.Err()
}

// pictureHeight is how many lines the SVG may have.
const pictureHeight = 40

// chapters is how many chapters tell the whole story.
const chapters = 6

// chapter makes a move of the story, which begins anew, with others, when it is over: each
// kind of thing dies and returns.
func (s *story) chapter(ctx context.Context, i int) {
	round := i / chapters
	node, neighbour, consumer := (2+round)%len(nodeNames), (1+round)%len(nodeNames), (3+round)%consumerCount
	switch i % chapters {
	case 0:
		s.killBroker(ctx, node)
	case 1:
		s.restoreBroker(ctx, node)
	case 2:
		s.killProxy(ctx, neighbour)
	case 3:
		s.restoreProxy(ctx, neighbour)
	case 4:
		s.killConsumer(ctx, consumer)
	case 5:
		s.restoreConsumer(ctx, consumer)
	}
}
