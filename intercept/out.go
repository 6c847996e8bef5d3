package intercept

import (
	"net"
	"sync"

	"amqproxy/frame"
)

// Out is what a Conn wants done after a batch of inputs.
type Out struct {
	Client Bytes
	Home   Bytes
	links  []*Bytes // by the link's index

	Dials     []Dial // links to open
	Drops     []int  // links to close, in order
	Errands   []Errand
	Abandoned []string // streams that were held for a Declare or Delete that came to nothing
	Released  []string // shards that a consumer from Pick has left, by queue name
	Held      []string // shards of which there are or may be unacknowledged deliveries now
	Freed     []string // shards of which there are none any more

	Readings []Reading // what consumers of groups do, in order
	Left     []uint64  // consumers of groups that are none any more
	Seated   []string  // shards that one of them reads or is to read, until Released

	// Secret is the client's new secret, once the broker has taken it.
	Secret []byte
	// Done says that the session is over when both destinations are flushed.
	Done bool
}

// Reset makes an Out ready for the next batch and gives its memory back.
func (o *Out) Reset() {
	o.Client.reset()
	o.Home.reset()
	for _, b := range o.links {
		b.reset()
	}
	clear(o.Dials)
	o.Dials, o.Drops = o.Dials[:0], o.Drops[:0]
	clear(o.Errands)
	clear(o.Released)
	clear(o.Abandoned)
	clear(o.Held)
	clear(o.Freed)
	o.Errands, o.Released, o.Abandoned = o.Errands[:0], o.Released[:0], o.Abandoned[:0]
	o.Held, o.Freed = o.Held[:0], o.Freed[:0]
	clear(o.Readings)
	clear(o.Seated)
	o.Readings, o.Left, o.Seated = o.Readings[:0], o.Left[:0], o.Seated[:0]
	o.Secret, o.Done = nil, false
}

// Link is what the broker of another link than the home link gets.
func (o *Out) Link(i int) *Bytes {
	for len(o.links) <= i {
		o.links = append(o.links, &Bytes{})
	}
	return o.links[i]
}

// Links is how many links there may be something for.
func (o *Out) Links() int { return len(o.links) }

func (o *Out) to(l *link) *Bytes {
	if l.index < 0 {
		return &o.Home
	}
	return o.Link(l.index)
}

// TellClient adds a copy of b to what the client gets, TellHome to what the
// broker gets: for the handshake, which goes before the core.
func (o *Out) TellClient(b []byte) { o.Client.own(b) }
func (o *Out) TellHome(b []byte)   { o.Home.own(b) }

// chunkSize is the size of the pieces that owned bytes are written into.
const chunkSize = 64 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// copyBelow is the size under which a view that follows owned bytes is copied
// behind them: cheaper than one more element of a vectored write.
const copyBelow = 1024

// Bytes are what is to be written to one destination, in order: views into the
// memory of the input, which hold until the next read, and owned bytes.
type Bytes struct {
	spans  net.Buffers
	owned  bool // the last span is the end of the last chunk
	used   []*[chunkSize]byte
	at     int // how much of the last chunk is used
	length int
}

// Len is how many octets there are.
func (b *Bytes) Len() int { return b.length }

// Spans are the pieces in order, for a vectored write. They hold until reset.
func (b *Bytes) Spans() net.Buffers { return b.spans }

// AppendTo copies all octets to the end of dst.
func (b *Bytes) AppendTo(dst []byte) []byte {
	for _, s := range b.spans {
		dst = append(dst, s...)
	}
	return dst
}

// view adds p without copying it, if that pays.
func (b *Bytes) view(p []byte) {
	if len(p) == 0 {
		return
	}
	if b.owned && len(p) < copyBelow {
		b.own(p)
		return
	}
	b.length += len(p)
	if n := len(b.spans); n > 0 && !b.owned {
		// What came after the last view in the same buffer prolongs it.
		if last := b.spans[n-1]; len(last) < cap(last) && &last[:len(last)+1][len(last)] == &p[0] {
			b.spans[n-1] = last[:len(last)+len(p)]
			return
		}
	}
	b.spans = append(b.spans, p)
	b.owned = false
}

// own adds a copy of p.
func (b *Bytes) own(p []byte) {
	for len(p) > 0 {
		room := b.room(1)
		n := min(len(p), len(room))
		b.added(copy(room, p[:n]))
		p = p[n:]
	}
}

// room is where owned bytes may be written, at least n (up to chunkSize): say
// with added how many were.
func (b *Bytes) room(n int) []byte {
	if len(b.used) == 0 || chunkSize-b.at < n {
		b.used = append(b.used, chunks.Get().(*[chunkSize]byte))
		b.at, b.owned = 0, false
	}
	return b.used[len(b.used)-1][b.at:]
}

func (b *Bytes) added(n int) {
	chunk := b.used[len(b.used)-1]
	if b.owned {
		last := &b.spans[len(b.spans)-1]
		*last = (*last)[:len(*last)+n]
	} else {
		b.spans = append(b.spans, chunk[b.at:b.at+n])
		b.owned = true
	}
	b.at += n
	b.length += n
}

func (b *Bytes) reset() {
	for i, c := range b.used {
		chunks.Put(c)
		b.used[i] = nil
	}
	clear(b.spans)
	b.spans, b.used, b.owned, b.at, b.length = b.spans[:0], b.used[:0], false, 0, 0
}

// build begins a method frame of at most 1 KiB in owned memory, without a copy.
func (b *Bytes) build(ch uint16, m frame.Method) frame.Builder {
	return frame.Build(b.room(2048)[:0], ch, m)
}

// built adds what build began.
func (b *Bytes) built(fb frame.Builder) { b.ownedOr(fb.End()) }

// ownedOr adds p, which was appended to room: it lies there, or, if it outgrew
// the room, in memory of its own.
func (b *Bytes) ownedOr(p []byte) {
	if room := b.used[len(b.used)-1][b.at:]; len(p) <= len(room) && &p[0] == &room[0] {
		b.added(len(p))
		return
	}
	b.owned = false // p is not to be copied, however small
	b.view(p)
}
