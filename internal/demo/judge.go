package demo

import (
	"fmt"
	"slices"
	"strings"
)

// move is what one event did to the keys.
type move struct {
	due     int // keys that had to move: those of the shards that went, or that came back
	moved   int // of them
	foreign int // keys that moved and had no reason to
}

// outcome is what a run has shown.
type outcome struct {
	counts
	moves    []move
	steady   []string // keys that were on one shard all the time
	disorder []string // of them, those that came out of order
	late     []string // what did not come about in time
}

// promise is something that amqproxy promises, and whether it was so.
type promise struct {
	text, detail string
	kept         bool
}

// judge holds what a run has shown against the promises.
func (o outcome) judge() []promise {
	due, moved, foreign := 0, 0, 0
	for _, m := range o.moves {
		due += m.due
		moved += m.moved
		foreign += m.foreign
	}
	late := "all did"
	if len(o.late) > 0 {
		late = strings.Join(o.late, "; ")
	}
	return []promise{
		{"nothing that was confirmed is lost", fmt.Sprintf("%d of %d messages are", o.lost(), o.Confirmed), o.lost() == 0},
		{"the keys of a dead broker go to other shards, and return with it", fmt.Sprintf("%d of %d moves came", moved, due), moved == due},
		{"no other key moves", fmt.Sprintf("%d did", foreign), foreign == 0},
		{"the messages of a key that stays on its shard come in order", fmt.Sprintf("those of %d in %d keys did not", len(o.disorder), len(o.steady)), len(o.disorder) == 0},
		{"all goes on within seconds", late, len(o.late) == 0},
	}
}

// kept tells whether all promises were.
func kept(ps []promise) bool {
	return !slices.ContainsFunc(ps, func(p promise) bool { return !p.kept })
}
