// Command picture makes the terminal picture of the README, from a demo that really runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	"amqproxy/internal/demo"
)

func main() {
	file := flag.String("o", "docs/demo.svg", "the file to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	image, err := demo.Picture(ctx, zap.NewNop())
	if err == nil {
		err = os.WriteFile(*file, image, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}
