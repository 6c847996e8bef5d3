package intercept

// ring is a queue of entries whose memory is used again.
type ring[T any] struct {
	buf     []T // a power of two of them
	head, n int
}

func (r *ring[T]) at(i int) *T { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring[T]) push(e T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(64, 2*len(r.buf)))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.buf, r.head = grown, 0
	}
	r.n++
	*r.at(r.n - 1) = e
}

func (r *ring[T]) pop() {
	r.head = (r.head + 1) & (len(r.buf) - 1)
	if r.n--; r.n == 0 && len(r.buf) > maxIdleRing {
		*r = ring[T]{}
	}
}

// maxIdleRing is how many entries the memory of an empty ring may be for.
const maxIdleRing = 4096
