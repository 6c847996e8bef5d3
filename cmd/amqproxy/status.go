package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"amqproxy/internal/config"
)

// statusViews are what status shows, in this order: a view of the admin API, and
// the fields of its rows that fit a line.
var statusViews = []struct {
	name   string
	fields []string
}{
	{"members", []string{"node", "presence", "condition", "version", "gossip", "broker", "self"}},
	{"brokers", []string{"node", "address", "reachable", "reason"}},
	{"streams", []string{"vhost", "stream", "state", "type", "hash_on", "shards", "digest", "messages_published", "messages_delivered", "methods_refused", "reason"}},
	{"shards", []string{"vhost", "queue", "node", "weight", "state", "consumers"}},
	{"sessions", []string{"client", "user", "vhost", "channels", "connected_at"}},
}

func statusCommand() *cobra.Command {
	return viewCommand("status", "Show what a running proxy knows: brokers, streams, shards, sessions", cobra.NoArgs,
		func(w io.Writer, addr, output string, _ []string) error {
			views, err := fetchViews(addr)
			if err != nil {
				return err
			}
			return show(w, views, output)
		})
}

// viewCommand is a command that asks a running proxy.
func viewCommand(use, short string, args cobra.PositionalArgs, run func(w io.Writer, addr, output string, args []string) error) *cobra.Command {
	var file, addr, output string
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  args,
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains([]string{"table", "json"}, output) {
				return fmt.Errorf("-o %s: want table or json", output)
			}
			if addr == "" {
				cfg, err := config.Load(file)
				if err != nil {
					return failed(err)
				}
				addr = cfg.Admin.Listen
			}
			return run(c.OutOrStdout(), addr, output, args)
		},
	}
	c.Flags().StringVar(&addr, "admin", "", "the daemon's admin address (default: that of the configuration)")
	c.Flags().StringVarP(&file, "config", "c", "", "the daemon's configuration file")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// fetchViews gets all views as they are.
func fetchViews(addr string) (map[string]json.RawMessage, error) {
	views := map[string]json.RawMessage{}
	for _, v := range statusViews {
		b, err := fetch(addr, v.name)
		if err != nil {
			return nil, err
		}
		views[v.name] = b
	}
	return views, nil
}

// fetch gets a view as it is.
func fetch(addr, view string) (json.RawMessage, error) {
	client := http.Client{Timeout: 10 * time.Second}
	unreached := func(err error) error {
		return &exitError{exitUnreachable, fmt.Errorf("no amqproxy at %s: %w", addr, err)}
	}
	resp, err := client.Get("http://" + addr + "/api/v1/" + view)
	if err != nil {
		return nil, unreached(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, unreached(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, unreached(fmt.Errorf("/api/v1/%s: %s", view, resp.Status))
	}
	return b, nil
}

func show(w io.Writer, views map[string]json.RawMessage, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(views)
	}
	for i, v := range statusViews {
		var rows []map[string]any
		if err := decode(views[v.name], &rows); err != nil {
			return failed(fmt.Errorf("%s: %w", v.name, err))
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		table(w, strings.ToUpper(v.name), v.fields, rows)
	}
	return nil
}

// decode reads JSON and leaves numbers as they are written.
func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(into)
}

// table prints rows aligned. Names come from clients: what would steer a
// terminal is shown as its escape.
func table(w io.Writer, name string, fields []string, rows []map[string]any) {
	fmt.Fprintf(w, "%s (%d)\n", name, len(rows))
	if len(rows) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(t, "  "+strings.Join(fields, "\t"))
	for _, row := range rows {
		cells := make([]string, len(fields))
		for i, f := range fields {
			if v := row[f]; v != nil {
				quoted := fmt.Sprintf("%+q", fmt.Sprint(v))
				cells[i] = quoted[1 : len(quoted)-1]
			}
		}
		fmt.Fprintln(t, "  "+strings.Join(cells, "\t"))
	}
}
