package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"amqproxy/internal/node"
)

func groupsCommand() *cobra.Command {
	return viewCommand("groups [V]", "Show who reads the shards of the streams whose consumers are groups, on all nodes", cobra.MaximumNArgs(1),
		func(w io.Writer, addr, output string, args []string) error {
			view := "groups"
			if len(args) > 0 {
				view += "?stream=" + url.QueryEscape(args[0])
			}
			b, err := fetch(addr, view)
			if err != nil {
				return err
			}
			var groups []node.GroupStatus
			if err := json.Unmarshal(b, &groups); err != nil {
				return failed(fmt.Errorf("groups: %w", err))
			}
			if len(groups) == 0 && len(args) > 0 {
				return failed(fmt.Errorf("no stream '%s' has a group (definition option consumers)", args[0]))
			}
			return showGroups(w, groups, output)
		})
}

func showGroups(w io.Writer, groups []node.GroupStatus, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(groups)
	}
	for i, g := range groups {
		if i > 0 {
			fmt.Fprintln(w)
		}
		title := fmt.Sprintf("%+q in vhost %+q: %s", g.Stream, g.VHost, g.Mode)
		table(w, title, []string{"queue", "node", "consumer", "proxy", "client", "ready", "unacked", "state"}, rows(g.Shards))
		table(w, "stand by", []string{"consumer", "proxy", "client"}, rows(g.Standby))
	}
	return nil
}

// rows are values as the JSON view has them.
func rows[T any](values []T) []map[string]any {
	all := make([]map[string]any, len(values))
	for i, v := range values {
		b, _ := json.Marshal(v) // of texts and numbers, which can't fail
		decode(b, &all[i])
	}
	return all
}
