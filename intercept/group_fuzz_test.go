package intercept

import (
	"fmt"
	"slices"

	"amqproxy/frame"
	"amqproxy/shard"
)

// fuzzedGroups is what a node knows of the consumers of groups of a fuzzed session.
type fuzzedGroups struct {
	number  uint64
	streams map[uint64]string // of those that have not left
	seats   map[string]int
	reads   map[string]bool // by member and queue
}

func newFuzzedGroups() fuzzedGroups {
	return fuzzedGroups{streams: map[uint64]string{}, seats: map[string]int{}, reads: map[string]bool{}}
}

func (g *fuzzedGroups) join(e Errand) uint64 {
	g.number++
	g.streams[g.number] = e.Stream.Stream
	return g.number
}

// divide tells the Conn that each shard is read by those whose turn how says it is; rarely
// that their streams are gone.
func (r *fuzzRun) divide(how byte) {
	parts := map[uint64]shard.Part{}
	for number, stream := range r.groups.streams {
		part := shard.Part{Gone: how == 7}
		if table, _ := r.conn.snap.Find("/", stream); table != nil {
			for i, s := range table.All() {
				if how>>((i+int(number))%8)&1 == 1 {
					part.Shards = append(part.Shards, s)
				}
			}
		}
		parts[number] = part
	}
	r.conn.Follow(shard.Parts{Of: parts}, &r.out)
}

// released takes a shard that is given back; false if no consumer of a group had it.
func (g *fuzzedGroups) released(queue string) bool {
	if _, ours := g.seats[queue]; ours {
		g.seats[queue]--
	}
	_, ours := g.seats[queue]
	return ours
}

// take takes what the node is told.
func (g *fuzzedGroups) take(out *Out) error {
	for _, queue := range out.Seated {
		g.seats[queue]++
	}
	for _, r := range out.Readings {
		key := fmt.Sprint(r.Member, " ", r.Queue)
		if r.Ended && !g.reads[key] {
			return fmt.Errorf("member %d ends %q, which it did not read", r.Member, r.Queue)
		}
		if g.reads[key] = true; r.Ended {
			delete(g.reads, key)
		}
	}
	for _, number := range out.Left {
		if g.streams[number] == "" {
			return fmt.Errorf("member %d leaves, and is none", number)
		}
		delete(g.streams, number)
	}
	for i := range out.Links() {
		if b := out.Link(i).AppendTo(nil); slices.ContainsFunc(cut(b), func(f frame.Frame) bool { return f[len(f)-1] != 0xCE }) {
			return fmt.Errorf("broken frames %x", b)
		}
	}
	return nil
}

// over tells what the node was not told when the session is over.
func (g *fuzzedGroups) over() error {
	for queue, n := range g.seats {
		if n != 0 {
			return fmt.Errorf("%q is held %d times", queue, n)
		}
	}
	if len(g.streams)+len(g.reads) > 0 {
		return fmt.Errorf("members %v are left, and read %v", g.streams, g.reads)
	}
	return nil
}
