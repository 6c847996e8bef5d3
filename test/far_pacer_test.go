package test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// pacer is a publisher at an even pace, with a window that does not fill.
type pacer struct {
	t     *testing.T
	ch    *amqp.Channel
	keys  []string
	fates []*fate
	all   sync.WaitGroup
}

type fate struct {
	key, body string
	acked     bool
	at        time.Time
}

func startPacer(t *testing.T, ch *amqp.Channel, keys []string) *pacer {
	streamConfirm(t, ch)
	return &pacer{t: t, ch: ch, keys: keys}
}

// sends publishes for so long, a message a millisecond or a little more.
func (p *pacer) sends(during time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(during); time.Now().Before(until); <-tick.C {
		f := &fate{key: p.keys[len(p.fates)%len(p.keys)], body: fmt.Sprintf("%06d", len(p.fates))}
		c, err := p.ch.PublishWithDeferredConfirm(farStream, f.key, false, false, amqp.Publishing{Body: []byte(f.body)})
		sessionMust(p.t, err)
		p.fates = append(p.fates, f)
		p.all.Go(func() {
			select {
			case <-c.Done():
				f.acked, f.at = c.Acked(), time.Now()
			case <-p.t.Context().Done():
			}
		})
	}
}

// end waits until everything is settled.
func (p *pacer) end() { p.all.Wait() }

func (p *pacer) nacked() (count int) {
	for _, f := range p.fates {
		if !f.acked {
			count++
		}
	}
	return count
}

// longestGap is the longest time between two confirms of any of these keys.
func (p *pacer) longestGap(keys []string) (gap time.Duration) {
	var at []time.Time
	for _, f := range p.fates {
		if slices.Contains(keys, f.key) {
			at = append(at, f.at)
		}
	}
	slices.SortFunc(at, func(a, b time.Time) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
	for i := 1; i < len(at); i++ {
		gap = max(gap, at[i].Sub(at[i-1]))
	}
	return gap
}

// check checks that what was acked is stored.
func (p *pacer) check(stored map[string][]string) {
	p.t.Helper()
	lost := 0
	for _, f := range p.fates {
		if f.acked && !slices.Contains(stored[f.key], f.body) {
			lost++
		}
	}
	if lost > 0 {
		p.t.Errorf("%d messages that were acked are lost", lost)
	}
}

// duplicatesOnly tells whether bodies are in order but for those that came before.
func duplicatesOnly(bodies []string) bool {
	last := ""
	seen := map[string]bool{}
	for _, b := range bodies {
		if seen[b] {
			continue
		}
		if b < last {
			return false
		}
		last, seen[b] = b, true
	}
	return true
}
