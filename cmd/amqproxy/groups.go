package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"amqproxy/internal/node"
)

func groupsCommand() *cobra.Command {
	return viewCommand("groups [V]", "Show who reads the shards of the streams whose consumers are groups, on all nodes", cobra.MaximumNArgs(1),
		func(w io.Writer, addr, output string, args []string) error {
			b, err := fetch(addr, "groups")
			if err != nil {
				return err
			}
			var groups []node.GroupStatus
			if err := json.Unmarshal(b, &groups); err != nil {
				return failed(fmt.Errorf("groups: %w", err))
			}
			shown := []node.GroupStatus{}
			for _, g := range groups {
				if len(args) == 0 || g.Stream == args[0] {
					shown = append(shown, g)
				}
			}
			if len(shown) == 0 && len(args) > 0 {
				return failed(fmt.Errorf("no stream '%s' has a group (definition option consumers)", args[0]))
			}
			return showGroups(w, shown, output)
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
		json.Unmarshal(b, &all[i])
	}
	return all
}
