package fakebroker

import (
	"slices"
	"strconv"
	"strings"

	"amqproxy/frame"
)

// notDefault refuses what can't be done to the default exchange.
func notDefault(name string) error {
	if name == "" {
		return refuse(frame.AccessRefused, "operation not permitted on the default exchange")
	}
	return nil
}

// notReserved refuses a name that only the broker may give.
func notReserved(kind, name string) error {
	if strings.HasPrefix(name, "amq.") {
		return refuse(frame.AccessRefused, "%s name '%s' contains reserved prefix 'amq.*'", kind, name)
	}
	return nil
}

func (ch *channel) exchangeDeclare(a *frame.Args) error {
	a.Short()
	name, kind, passive := string(a.ShortStr()), string(a.ShortStr()), a.Bit()
	want := &exchange{vhost: ch.conn.vhost, name: name, kind: kind, durable: a.Bit(), autoDelete: a.Bit(), internal: a.Bit()}
	nowait, args := a.Bit(), slices.Clone(a.Table())
	if !a.OK() {
		return nil
	}
	want.args = args
	if err := ch.declareExchange(want, passive); err != nil {
		return err
	}
	ch.ok(frame.ExchangeDeclareOk, nowait)
	return nil
}

func (ch *channel) declareExchange(want *exchange, passive bool) error {
	v := ch.conn.vhost
	x := v.exchanges[want.name]
	if passive {
		if err := notDefault(want.name); err != nil || x != nil {
			return err
		}
		return v.missing("exchange", want.name)
	}
	if !slices.Contains(kinds, want.kind) {
		return &frame.ConnError{Code: frame.CommandInvalid, Text: "unknown exchange type '" + want.kind + "'"}
	}
	if err := notDefault(want.name); err != nil {
		return err
	}
	if x != nil {
		return x.sameAs(want)
	}
	if err := notReserved("exchange", want.name); err != nil {
		return err
	}
	if f, found, _ := want.args.Find("alternate-exchange"); found {
		if f.Type != 'S' {
			return refuse(frame.PreconditionFailed, "invalid type '%s' for arg 'alternate-exchange' in %s", typeNames[f.Type], v.called("exchange", want.name))
		}
		want.alternate = string(f.Value)
	}
	v.exchanges[want.name] = want
	return nil
}

func (ch *channel) exchangeDelete(a *frame.Args) error {
	a.Short()
	name, ifUnused, nowait := string(a.ShortStr()), a.Bit(), a.Bit()
	if !a.OK() {
		return nil
	}
	v := ch.conn.vhost
	if err := notDefault(name); err != nil {
		return err
	}
	if strings.HasPrefix(name, "amq.") {
		return refuse(frame.AccessRefused, "deletion of system %s not allowed", v.called("exchange", name))
	}
	if x := v.exchanges[name]; x != nil {
		if ifUnused && len(x.bindings) > 0 {
			return refuse(frame.PreconditionFailed, "%s in use", v.called("exchange", name))
		}
		x.delete()
	}
	ch.ok(frame.ExchangeDeleteOk, nowait)
	return nil
}

func (ch *channel) exchangeBind(a *frame.Args) error {
	b, nowait, err := ch.exchangeBinding(a)
	if err == nil {
		err = b.check()
	}
	if err != nil || !a.OK() {
		return err
	}
	b.bind()
	ch.ok(frame.ExchangeBindOk, nowait)
	return nil
}

func (ch *channel) exchangeUnbind(a *frame.Args) error {
	b, nowait, err := ch.exchangeBinding(a)
	if err != nil && !isMissing(err) || !a.OK() {
		return err
	}
	if err == nil {
		b.unbind()
	}
	ch.ok(frame.ExchangeUnbindOk, nowait)
	return nil
}

// exchangeBinding reads the arguments that bind and unbind have in common.
func (ch *channel) exchangeBinding(a *frame.Args) (b *binding, nowait bool, err error) {
	a.Short()
	to, from := string(a.ShortStr()), string(a.ShortStr())
	b = &binding{key: string(a.ShortStr())}
	nowait, b.args = a.Bit(), slices.Clone(a.Table())
	for _, name := range []string{to, from} {
		if err := notDefault(name); err != nil {
			return nil, false, err
		}
	}
	if b.from, err = ch.conn.vhost.exchange(from); err == nil {
		b.to, err = ch.conn.vhost.exchange(to)
	}
	return b, nowait, err
}

// check refuses bindings that a type of exchange does not have.
func (b *binding) check() error {
	switch b.from.kind {
	case "x-consistent-hash":
		if n, err := strconv.Atoi(b.key); err != nil || n < 0 || n > 10_000 {
			return refuse(frame.PreconditionFailed, "The binding key must be an integer: %s", b.key)
		}
	case "headers":
		f, found, _ := b.args.Find("x-match")
		if found && f.Type != 'S' {
			value, _ := f.Text()
			return refuse(frame.PreconditionFailed, "Invalid x-match field type %s (value %s); expected longstr", typeNames[f.Type], value)
		}
		if found && !slices.Contains([]string{"all", "any", "all-with-x", "any-with-x"}, string(f.Value)) {
			return refuse(frame.PreconditionFailed, "Invalid x-match field value <<%q>>; expected all, any, all-with-x, or any-with-x", f.Value)
		}
	}
	return nil
}
