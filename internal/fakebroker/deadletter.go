package fakebroker

import (
	"encoding/binary"
	"slices"
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
	first := len(deaths) == 0
	deaths = addDeath(deaths, q.death(m, reason, p[expirationBit], now))
	headers = headers.Append("x-death", frame.Field{Type: 'A', Value: writeDeaths(deaths)})
	if _, found, _ := m.headers.Find("x-first-death-reason"); first && !found {
		headers = headers.AppendString("x-first-death-reason", reason).
			AppendString("x-first-death-queue", q.name).AppendString("x-first-death-exchange", m.exchange)
	}
	p[headersBit], p[expirationBit] = headers, nil
	dead.headers, dead.properties = headers, p.append(nil)
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

// death is an entry of the header x-death: so many times a message has left a queue for
// a reason.
type death struct {
	queue, reason string
	count         int64
	rest          frame.Table // what else the entry says
}

func (q *queue) death(m *message, reason string, expiration []byte, now time.Time) death {
	rest := frame.Table{}.AppendString("reason", reason).AppendString("queue", q.name)
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
	return death{q.name, reason, 1, rest}
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
		count, _, _ := t.Find("count")
		n, _ := count.Int()
		deaths = append(deaths, death{string(queue.Value), string(reason.Value), n, without(t, "count")})
	}
}

// addDeath counts a death, and puts its entry first.
func addDeath(deaths []death, d death) []death {
	at := slices.IndexFunc(deaths, func(o death) bool { return o.queue == d.queue && o.reason == d.reason })
	if at >= 0 {
		d = deaths[at]
		d.count++
		deaths = slices.Delete(deaths, at, at+1)
	}
	return slices.Insert(deaths, 0, d)
}

func writeDeaths(deaths []death) (array []byte) {
	for _, d := range deaths {
		count := frame.Field{Type: 'l', Value: binary.BigEndian.AppendUint64(nil, uint64(d.count))}
		t := frame.Table{}.Append("count", count)
		array = frame.AppendItem(array, frame.Field{Type: 'F', Value: append(t, d.rest...)})
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
