package fakebroker

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"amqproxy/frame"
)

// deadLetter gives a message that leaves the queue for a reason to the queue's
// dead-letter exchange, if it has one.
func (q *queue) deadLetter(m *message, reason string, now time.Time) {
	if !q.letters || q.vhost.exchanges[q.letterTo] == nil {
		return
	}
	p := split(m.properties)
	deaths := readDeaths(m.headers)
	dead := &message{exchange: q.letterTo, keys: m.keys, body: m.body, priority: m.priority}
	headers := without(m.headers, "x-death")
	if q.letterWithKey {
		dead.keys = []string{q.letterKey}
		headers = without(headers, "CC")
	}
	if len(deaths) == 0 {
		for name, value := range map[string]string{"reason": reason, "queue": q.name, "exchange": m.exchange} {
			headers = without(headers, "x-first-death-"+name).AppendString("x-first-death-"+name, value)
		}
	}
	deaths = addDeath(deaths, q.death(m, reason, p[expirationBit], now))
	headers = headers.Append("x-death", frame.Field{Type: 'A', Value: writeDeaths(deaths)})
	p[headersBit], p[expirationBit] = sorted(headers), nil
	dead.headers, dead.properties = p[headersBit], p.append(nil)
	to := q.vhost.route(q.vhost.exchanges[q.letterTo], dead)
	to = slices.DeleteFunc(to, func(t *queue) bool { return circles(deaths, t.name) })
	q.vhost.store(to, dead, now)
}

// split reads properties as a message holds them.
func split(b []byte) properties {
	f := frame.First(frame.AppendContent(nil, 0, b, nil, frameMax))
	p, _ := readProperties(f)
	return p
}

// sorted is a table with its entries in the order of their names.
func sorted(t frame.Table) frame.Table {
	type entry struct {
		key string
		frame.Field
	}
	var entries []entry
	for {
		key, f, rest, ok := t.Next()
		if !ok {
			break
		}
		entries, t = append(entries, entry{string(key), f}), rest
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	out := frame.Table{}
	for _, e := range entries {
		out = out.Append(e.key, e.Field)
	}
	return out
}

// death is an entry of the header x-death: so many times a message has left a queue for
// a reason.
type death struct {
	queue, reason string
	entry         frame.Table
}

func (q *queue) death(m *message, reason string, expiration []byte, now time.Time) death {
	rest := withCount(nil, 1).AppendString("reason", reason).AppendString("queue", q.name)
	rest = rest.Append("time", frame.Field{Type: 'T', Value: binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))})
	rest = rest.AppendString("exchange", m.exchange)
	keys := frame.AppendItem(nil, frame.Field{Type: 'S', Value: []byte(m.keys[0])})
	cc, _, _ := m.headers.Find("CC")
	if cc.Type == 'A' {
		keys = append(keys, cc.Value...)
	}
	rest = rest.Append("routing-keys", frame.Field{Type: 'A', Value: keys})
	if expiration != nil {
		rest = rest.AppendString("original-expiration", string(expiration))
	}
	return death{q.name, reason, rest}
}

// readDeaths reads the header, the last death first.
func readDeaths(headers frame.Table) (deaths []death) {
	list, _, _ := headers.Find("x-death")
	if list.Type != 'A' {
		return nil
	}
	for rest := list.Value; ; {
		item, after, ok := frame.NextItem(rest)
		if !ok {
			return deaths
		}
		rest = after
		if item.Type != 'F' {
			continue
		}
		t := frame.Table(item.Value)
		queue, _, _ := t.Find("queue")
		reason, _, _ := t.Find("reason")
		deaths = append(deaths, death{string(queue.Value), string(reason.Value), t})
	}
}

// addDeath counts a death, and puts its entry first. Like RabbitMQ it sorts the entry
// then, if it is not the very first.
func addDeath(deaths []death, d death) []death {
	at := slices.IndexFunc(deaths, func(o death) bool { return o.queue == d.queue && o.reason == d.reason })
	if at >= 0 {
		d = deaths[at]
		count, _, _ := d.entry.Find("count")
		n, _ := count.Int()
		d.entry = withCount(without(d.entry, "count"), n+1)
		deaths = slices.Delete(deaths, at, at+1)
	}
	if at >= 0 || len(deaths) > 0 {
		d.entry = sorted(d.entry)
	}
	return slices.Insert(deaths, 0, d)
}

func withCount(t frame.Table, n int64) frame.Table {
	return t.Append("count", frame.Field{Type: 'l', Value: binary.BigEndian.AppendUint64(nil, uint64(n))})
}

func writeDeaths(deaths []death) (array []byte) {
	for _, d := range deaths {
		array = frame.AppendItem(array, frame.Field{Type: 'F', Value: d.entry})
	}
	return array
}

// circles tells whether a message comes to a queue again without anybody having
// rejected it on the way: it is dropped then.
func circles(deaths []death, queue string) bool {
	for i, d := range deaths {
		if d.queue == queue {
			return !slices.ContainsFunc(deaths[:i+1], func(o death) bool { return o.reason == "rejected" })
		}
	}
	return false
}
