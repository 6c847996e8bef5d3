package intercept

import "amqproxy/shard"

// tally counts the messages of a batch, so that shared counters are touched once
// a batch and not once a message.
type tally struct {
	total *shard.Counters
	all   counts

	counters *shard.Counters // of the stream that part is about
	part     counts
}

type counts struct {
	published, delivered, confirmed, nacked, returned, rerouted, retried, dropped, refused uint64
}

// stream is where the messages of one stream are counted.
func (t *tally) stream(counters *shard.Counters) *counts {
	if t.counters != counters {
		t.part.flush(t.counters)
		t.counters = counters
	}
	return &t.part
}

func (t *tally) flush() {
	t.all.flush(t.total)
	t.part.flush(t.counters)
}

func (k *counts) flush(to *shard.Counters) {
	if *k == (counts{}) {
		return
	}
	to.Published.Add(k.published)
	to.Delivered.Add(k.delivered)
	to.Confirmed.Add(k.confirmed)
	to.Nacked.Add(k.nacked)
	to.Returned.Add(k.returned)
	to.Rerouted.Add(k.rerouted)
	to.Retried.Add(k.retried)
	to.Dropped.Add(k.dropped)
	to.Refused.Add(k.refused)
	*k = counts{}
}
