package fakebroker

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"amqproxy/frame"
)

const (
	channelMax       = 2047
	frameMax         = 131072
	heartbeatSeconds = 60
	handshakeTimeout = 10 * time.Second
)

// errSilently ends a connection that is refused without a word: RabbitMQ lets such a
// client wait for 3 s first, we don't.
var errSilently = errors.New("fakebroker: refused without a word")

func appendStart(dst []byte) []byte {
	caps := frame.Table{}
	for _, name := range []string{
		"publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
		"connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
	} {
		caps = caps.AppendFlag(name, true)
	}
	// Clients look at the product for what else they may expect.
	props := frame.Table{}.AppendTable("capabilities", caps).AppendString("product", "RabbitMQ").
		AppendString("version", "3.10.8").AppendString("platform", "amqproxy fakebroker").
		AppendString("information", "an imitation of RabbitMQ in memory; nothing is kept").AppendString("cluster_name", "fakebroker")
	return frame.Build(dst, 0, frame.ConnectionStart).Octet(0).Octet(9).Table(props).LongStr("PLAIN AMQPLAIN").LongStr("en_US").End()
}

// handshake takes a frame before the connection is open.
func (c *conn) handshake(f frame.Frame) error {
	if f.Channel() != 0 || f.Type() != frame.TypeMethod || f.Method() != c.next {
		return errSilently
	}
	a := f.Args()
	switch c.next {
	case frame.ConnectionStartOk:
		return c.startOk(&a)
	case frame.ConnectionTuneOk:
		return c.tuneOk(&a)
	}
	return c.open(&a)
}

func (c *conn) startOk(a *frame.Args) error {
	props, mechanism, response := a.Table(), string(a.ShortStr()), a.LongStr()
	a.ShortStr()
	if !a.OK() {
		return errSilently
	}
	c.can = clientCapabilities(props)
	user, password, ok := credentials(mechanism, response)
	if !ok {
		return errSilently
	}
	if known, there := c.server.Users[user]; !there || known != password {
		if !c.can.refusal {
			return errSilently
		}
		return &frame.ConnError{Code: frame.AccessRefused, Text: fmt.Sprintf(
			"Login was refused using authentication mechanism %s. For details see the broker logfile.", mechanism)}
	}
	c.user, c.next = user, frame.ConnectionTuneOk
	c.out.add(func(dst []byte) []byte {
		return frame.Build(dst, 0, frame.ConnectionTune).Short(channelMax).Long(frameMax).Short(heartbeatSeconds).End()
	})
	return nil
}

// credentials reads a response; false if it is malformed or the mechanism is unknown.
func credentials(mechanism string, response []byte) (user, password string, ok bool) {
	switch mechanism {
	case "PLAIN":
		parts := bytes.Split(response, []byte{0})
		if len(parts) != 3 {
			return "", "", false
		}
		return string(parts[1]), string(parts[2]), true
	case "AMQPLAIN":
		login, named, _ := frame.Table(response).Find("LOGIN")
		secret, given, _ := frame.Table(response).Find("PASSWORD")
		return string(login.Value), string(secret.Value), named && given
	}
	return "", "", false
}

func clientCapabilities(props frame.Table) capabilities {
	caps, _, _ := props.Find("capabilities")
	has := func(name string) bool {
		f, found, _ := frame.Table(caps.Value).Find(name)
		return found && f.Type == 't' && f.Value[0] != 0
	}
	if caps.Type != 'F' {
		return capabilities{}
	}
	return capabilities{has("consumer_cancel_notify"), has("connection.blocked"), has("authentication_failure_close")}
}

func (c *conn) tuneOk(a *frame.Args) error {
	channels, frames, beat := a.Short(), a.Long(), a.Short()
	if !a.OK() || channels == 0 || channels > channelMax || frames < frame.MinMax || frames > frameMax {
		return errSilently
	}
	c.channelMax, c.frameMax = int(channels), int(frames)
	c.reader.SetMax(c.frameMax)
	if beat > 0 {
		c.beats <- time.Duration(beat) * time.Second / 2
	}
	c.beat, c.next = time.Duration(beat)*time.Second, frame.ConnectionOpen
	return nil
}

func (c *conn) open(a *frame.Args) error {
	name := string(a.ShortStr())
	v := c.server.vhosts[name]
	if v == nil {
		return &frame.ConnError{Code: frame.NotAllowed, Text: fmt.Sprintf("vhost %s not found", name), Method: frame.ConnectionOpen}
	}
	c.vhost, c.next, c.until, c.silence = v, 0, time.Time{}, 2*c.beat
	c.out.add(func(dst []byte) []byte { return frame.Build(dst, 0, frame.ConnectionOpenOk).ShortStr("").End() })
	return nil
}
