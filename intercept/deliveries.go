package intercept

import (
	"cmp"
	"slices"
)

// deliveries are what the client has been sent on a channel that several upstream channels
// feed, and has not settled. Its tags rise by one with each message, whoever brings it, and
// those of one upstream channel are in the order of that one's own:
//
//	open is sorted by tag; of one reader it is sorted by up too
//	what lies before head is settled; settled counts those behind it
type deliveries struct {
	sources []*reader // whom deliveries are from; the first is nil, the home leg
	base    uint64    // tags up to it are the home leg's own, from before; see settleTo
	last    uint64    // the last one that was given
	open    []delivery
	head    int
	settled int
}

// delivery has no pointer: the garbage collector need not look at a million of them.
type delivery struct {
	tag, up uint64
	from    uint32 // in sources
	done    bool
}

// source gives the place of a reader in sources.
func (d *deliveries) source(r *reader) uint32 {
	if d.sources == nil {
		d.sources = []*reader{nil}
	}
	for i := len(d.sources) - 1; i > 0; i-- { // it reuses the place of one that has brought nothing that is open
		if s := d.sources[i]; s.stage == readerGone && s.unacked == 0 {
			d.sources[i] = r
			return uint32(i)
		}
	}
	d.sources = append(d.sources, r)
	return uint32(len(d.sources) - 1)
}

// next gives the tag for a message that is not to be settled.
func (d *deliveries) next() uint64 {
	d.last++
	return d.last
}

// add gives the tag for message up of a source.
func (d *deliveries) add(up uint64, from uint32) uint64 {
	if len(d.open) == cap(d.open) && d.head > len(d.open)/2 {
		d.open = d.open[:copy(d.open, d.open[d.head:])]
		d.head = 0
	}
	d.last++
	d.open = append(d.open, delivery{tag: d.last, up: up, from: from})
	return d.last
}

// find gives the place of a tag that is not settled.
func (d *deliveries) find(tag uint64) (at int, ok bool) {
	if d.head == len(d.open) || tag < d.open[d.head].tag {
		return 0, false
	}
	if i := tag - d.open[d.head].tag; i < uint64(len(d.open)-d.head) && d.open[d.head+int(i)].tag == tag {
		at = d.head + int(i) // as it is while nothing was taken out
		return at, !d.open[at].done
	}
	at, ok = slices.BinarySearchFunc(d.open[d.head:], tag, func(e delivery, tag uint64) int { return cmp.Compare(e.tag, tag) })
	at += d.head
	return at, ok && !d.open[at].done
}

// settle takes out one.
func (d *deliveries) settle(at int) {
	d.open[at].done = true
	d.settled++
	d.trim()
}

// settleTo takes out all up to one.
func (d *deliveries) settleTo(at int) {
	for i := d.head; i <= at; i++ {
		if !d.open[i].done {
			d.open[i].done = true
			d.settled++
		}
	}
	d.trim()
}

// forget takes out all of a source.
func (d *deliveries) forget(from uint32) {
	for i := d.head; i < len(d.open); i++ {
		if e := &d.open[i]; e.from == from && !e.done {
			e.done = true
			d.settled++
		}
	}
	d.trim()
}

func (d *deliveries) trim() {
	for d.head < len(d.open) && d.open[d.head].done {
		d.open[d.head] = delivery{}
		d.head++
		d.settled--
	}
	switch {
	case d.head == len(d.open):
		d.open, d.head = d.open[:0], 0
	case d.settled > 64 && d.settled > (len(d.open)-d.head)/2: // one that stays must not keep all behind it
		d.open = slices.DeleteFunc(d.open[d.head:], func(e delivery) bool { return e.done })
		d.head, d.settled = 0, 0
	}
}

// unsettled calls yield with all that are not settled, by tag.
func (d *deliveries) unsettled(yield func(delivery) bool) {
	for i := d.head; i < len(d.open); i++ {
		if e := d.open[i]; !e.done && !yield(e) {
			return
		}
	}
}

// count is how many are not settled.
func (d *deliveries) count() int { return len(d.open) - d.head - d.settled }
