package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// result is what a run gave. Times are in seconds.
type result struct {
	Fault  string `json:"fault"`
	Path   string `json:"path"`
	Seed   uint64 `json:"seed"`
	Victim int    `json:"victim"`
	tally
	Gap         float64 `json:"longest_gap"`
	GapSpared   float64 `json:"longest_gap_unaffected"` // -1: the fault affects every shard
	Moved       int     `json:"keys_moved"`
	Unconfirmed int     `json:"unconfirmed_at_victim"`
	Settled     float64 `json:"settled_after"` // from the repair until all shards were in use
	Took        float64 `json:"took"`
	Counts      bool    `json:"counts"`            // false: a kill of a victim that had too little to do
	Ordered     bool    `json:"ordered,omitempty"` // nothing may come out of order
	Error       string  `json:"error,omitempty"`
}

// failed tells that the run shows something that must not be.
func (r *result) failed() bool {
	return r.Lost > 0 || r.Strange > 0 || r.Error != "" || r.Ordered && r.Reordered > 0
}

// row is all runs of one fault on one path.
type row struct {
	Fault  string `json:"fault"`
	Path   string `json:"path"`
	Rounds int    `json:"rounds"` // that count
	tally
	Gap         float64 `json:"longest_gap"`
	GapSpared   float64 `json:"longest_gap_unaffected"`
	Moved       int     `json:"keys_moved"`            // in one run, at most
	Unconfirmed int     `json:"unconfirmed_at_victim"` // at least, of those that count
	Failed      int     `json:"failed"`
}

// report is all that is told in the end.
type report struct {
	Seed uint64    `json:"seed"`
	Rows []*row    `json:"faults"`
	Runs []*result `json:"runs"`
}

func (rep *report) add(r *result) {
	rep.Runs = append(rep.Runs, r)
	s := rep.row(r.Fault, r.Path)
	if s == nil {
		s = &row{Fault: r.Fault, Path: r.Path, GapSpared: -1}
		rep.Rows = append(rep.Rows, s)
	}
	if r.Counts {
		if s.Rounds == 0 || r.Unconfirmed < s.Unconfirmed {
			s.Unconfirmed = r.Unconfirmed
		}
		s.Rounds++
	}
	if r.failed() {
		s.Failed++
	}
	s.tally.add(r.tally)
	s.Gap, s.GapSpared, s.Moved = max(s.Gap, r.Gap), max(s.GapSpared, r.GapSpared), max(s.Moved, r.Moved)
}

func (t *tally) add(o tally) {
	t.Attempted += o.Attempted
	t.Acked += o.Acked
	t.Nacked += o.Nacked
	t.Returned += o.Returned
	t.Unanswered += o.Unanswered
	t.Delivered += o.Delivered
	t.Lost += o.Lost
	t.LostMandatory += o.LostMandatory
	t.WithShard += o.WithShard
	t.Duplicated += o.Duplicated
	t.Unflagged += o.Unflagged
	t.Reordered += o.Reordered
	t.Strange += o.Strange
}

func (rep *report) row(fault, path string) *row {
	for _, s := range rep.Rows {
		if s.Fault == fault && s.Path == path {
			return s
		}
	}
	return nil
}

// table prints a row for each fault.
func (rep *report) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\trounds\tattempted\tacked\tnacked\treturned\tunanswered\tdelivered\tLOST\twith shard\tduplicated\tunflagged\treordered\tgap s\tunaffected s\tmoved\tunconfirmed\tplugin: rounds\tacked\tLOST")
	for _, s := range rep.Rows {
		if s.Path != "amqproxy" {
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t%s\t%d\t%d\t", s.Fault, s.Rounds, s.Attempted, s.Acked, s.Nacked, s.Returned,
			s.Unanswered, s.Delivered, s.Lost, s.WithShard, s.Duplicated, s.Unflagged, s.Reordered, s.Gap, seconds(s.GapSpared), s.Moved, s.Unconfirmed)
		if p := rep.row(s.Fault, "plugin"); p != nil {
			fmt.Fprintf(w, "%d\t%d\t%d\n", p.Rounds, p.Acked, p.Lost)
		} else {
			fmt.Fprintln(w, "-\t-\t-")
		}
	}
	w.Flush()
}

// seconds writes a gap; there is none where every shard is affected.
func seconds(s float64) string {
	if s < 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", s)
}

func (rep *report) write(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// verdict is an error if a run through amqproxy failed. What the plugin loses is told
// and no more.
func (rep *report) verdict() error {
	lost, failed := 0, 0
	for _, s := range rep.Rows {
		if s.Path == "amqproxy" {
			lost, failed = lost+s.Lost, failed+s.Failed
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d messages that were acked are lost; %d runs failed", lost, failed)
	}
	return nil
}
