// Command amqproxy is a wire-level AMQP 0-9-1 proxy that gives RabbitMQ
// partitioned streams. This package is flags, signals and logs.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the build; a build without it takes what Go noted.
var version string

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1 // a check or a promise failed
	exitUsage       = 2
	exitUnreachable = 3 // the daemon was not reached
)

// exitError carries an exit code. Its text has been printed if quiet.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	root := &cobra.Command{
		Use:           "amqproxy",
		Short:         "A proxy beside RabbitMQ that gives unmodified AMQP clients partitioned streams",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), demoCommand(), devCommand(), checkCommand(), versionCommand(), statusCommand(), groupsCommand())
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(os.Stderr, "amqproxy:", err)
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitUsage
}

func failed(err error) error { return &exitError{exitFailed, err} }

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "amqproxy", versionText()) },
	}
}
