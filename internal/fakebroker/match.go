package fakebroker

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"amqproxy/frame"
)

// kinds are the types of exchanges that can be declared.
var kinds = []string{"direct", "fanout", "topic", "headers", "x-consistent-hash"}

// match gives take all bindings of the exchange that a message matches.
func (x *exchange) match(m *message, take func(*binding)) {
	each := func(bindings []*binding) {
		for _, b := range bindings {
			take(b)
		}
	}
	switch x.kind {
	case "direct":
		for _, key := range m.keys {
			each(x.bindings[key])
		}
	case "fanout":
		for _, some := range x.bindings {
			each(some)
		}
	case "topic":
		for pattern, some := range x.bindings {
			if slices.ContainsFunc(m.keys, func(key string) bool { return topicMatches(pattern, key) }) {
				each(some)
			}
		}
	case "headers":
		for _, some := range x.bindings {
			for _, b := range some {
				if headersMatch(b.args, m.headers) {
					take(b)
				}
			}
		}
	case "x-consistent-hash":
		if b := x.hashed(m); b != nil {
			take(b)
		}
	}
}

// topicMatches tells whether a routing key has the form of a binding key, in which *
// is one word and # any number of them.
func topicMatches(pattern, key string) bool {
	p, k := strings.Split(pattern, "."), []string{}
	if key != "" {
		k = strings.Split(key, ".")
	}
	if pattern == "" {
		p = nil
	}
	// fits[i] says that the words of p so far match the first i words of k.
	fits := make([]bool, len(k)+1)
	fits[0] = true
	for _, word := range p {
		if word == "#" {
			for i := range k {
				fits[i+1] = fits[i+1] || fits[i]
			}
			continue
		}
		for i := len(k); i > 0; i-- {
			fits[i] = fits[i-1] && (word == "*" || word == k[i-1])
		}
		fits[0] = false
	}
	return fits[len(k)]
}

// headersMatch tells whether headers have all, or with x-match=any one, of what a
// binding names. A name without a value is matched by any; names that begin with x- are
// looked at by the x-match of all-with-x and any-with-x only.
func headersMatch(args, headers frame.Table) bool {
	kind := "all"
	if f, found, _ := args.Find("x-match"); found {
		kind = string(f.Value)
	}
	any, withX := strings.HasPrefix(kind, "any"), strings.HasSuffix(kind, "-with-x")
	for t := args; ; {
		key, want, rest, ok := t.Next()
		if !ok {
			return !any
		}
		t = rest
		if string(key) == "x-match" || !withX && strings.HasPrefix(string(key), "x-") {
			continue
		}
		got, found, _ := headers.Find(string(key))
		if matches := found && (want.Type == 'V' || sameField(want, got)); matches == any {
			return any
		}
	}
}

// sameField compares as RabbitMQ does: integers by value, whatever their size.
func sameField(a, b frame.Field) bool {
	m, isInt := a.Int()
	n, isIntToo := b.Int()
	if isInt && isIntToo && (a.Type == 'T') == (b.Type == 'T') {
		return m == n
	}
	return a.Type == b.Type && string(a.Value) == string(b.Value)
}

// point is one of a binding's buckets on the ring of a consistent-hash exchange.
type point struct {
	at uint64
	*binding
}

// hashed finds the binding behind the hash of a message. It is not where RabbitMQ's
// plugin finds it.
func (x *exchange) hashed(m *message) *binding {
	if x.ring == nil {
		x.makeRing()
	}
	if len(x.ring) == 0 {
		return nil
	}
	on := m.keys[0]
	if name, found, _ := x.args.Find("hash-header"); found {
		header, _, _ := m.headers.Find(string(name.Value))
		on, _ = header.Text()
	}
	h := hash64(on)
	i, _ := slices.BinarySearchFunc(x.ring, h, func(p point, h uint64) int { return cmp.Compare(p.at, h) })
	return x.ring[i%len(x.ring)].binding
}

// makeRing gives each binding so many buckets as its key says.
func (x *exchange) makeRing() {
	x.ring = []point{}
	for key, some := range x.bindings {
		weight, _ := strconv.Atoi(key)
		for _, b := range some {
			for i := range weight {
				x.ring = append(x.ring, point{hash64(b.destination() + "\x00" + strconv.Itoa(i)), b})
			}
		}
	}
	slices.SortFunc(x.ring, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.destination(), b.destination()))
	})
}

func (b *binding) destination() string {
	if b.queue != nil {
		return b.queue.name
	}
	return b.to.name
}

func hash64(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	n := h.Sum64() // FNV alone leaves short strings close together
	n ^= n >> 32
	n *= 0xd6e8feb86659fd93
	return n ^ n>>32
}
