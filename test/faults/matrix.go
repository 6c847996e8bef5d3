package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
)

// planned is one run: which fault, the how manieth time.
type planned struct {
	fault fault
	round int
}

// runs are all runs in their order: every fault once, then every fault again.
func (o options) runs() (all []planned) {
	for round := range max(o.rounds, o.kills) {
		for _, f := range faults {
			rounds := o.rounds
			if f.name == brokerKilled {
				rounds = max(rounds, o.kills)
			}
			if round < rounds && o.only.MatchString(f.name) && (f.short || !o.short) && (o.groups || !f.group) {
				all = append(all, planned{f, round})
			}
		}
	}
	return all
}

// seed is that of the first run with this round's own seed, so that a round can be
// had without those before it.
func (o options) seedOf(p planned) uint64 { return o.seed + uint64(p.round) }

// tries is how often a kill is tried until enough was unconfirmed.
const tries = 3

// all does the runs, and stops early only when the world is broken.
func (w *world) all(ctx context.Context, o options, runs []planned) *report {
	rep := &report{Seed: o.seed}
	for _, p := range runs {
		for range tries {
			res := w.through(ctx, p.fault, o.seedOf(p))
			rep.add(res)
			if ctx.Err() != nil || w.broken != nil {
				return rep
			}
			if res.Counts {
				break
			}
		}
		if o.plugin && p.round < o.rounds && p.fault.hits != oneProxy {
			rep.add(w.compare(ctx, p.fault, o.seedOf(p)))
		}
		if ctx.Err() != nil || w.broken != nil {
			break
		}
	}
	return rep
}

// through is a run through amqproxy. It tells how to repeat one that failed.
func (w *world) through(ctx context.Context, f fault, seed uint64) *result {
	r := newRun(w, w.stream, f, seed)
	r.do(ctx)
	r.tell()
	if r.failed() {
		fmt.Fprintf(os.Stderr, "repeat it: go run ./test/faults%s -seed %d -only '^%s$' -rounds 1\n", w.flags(), seed, regexp.QuoteMeta(f.name))
	}
	if r.Error != "" {
		w.broken = w.repair(ctx)
	}
	return &r.result
}

// flags are those that tell of what kind the world is.
func (w *world) flags() (flags string) {
	if w.apart {
		flags += " -apart"
	}
	if w.groups {
		flags += " -groups"
	}
	return flags
}

// compare is the same run on the plugin, on an exchange of its own.
func (w *world) compare(ctx context.Context, f fault, seed uint64) *result {
	p, err := newPlugin(ctx, w)
	if err != nil {
		w.broken = err
		return &result{Fault: f.name, Path: "plugin", Seed: seed, Error: err.Error()}
	}
	r := newRun(w, p, f, seed)
	r.do(ctx)
	r.tell()
	if r.Error != "" {
		w.broken = w.repair(ctx)
	}
	if err := p.close(ctx); err != nil && w.broken == nil {
		w.broken = err
	}
	return &r.result
}
