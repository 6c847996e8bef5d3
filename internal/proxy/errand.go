package proxy

import (
	"errors"
	"fmt"
	"time"

	"amqproxy/frame"
	"amqproxy/intercept"
	"amqproxy/shard"
)

// errand has the node do what the core asks for, and takes the answer to it.
func (se *session) errand(e intercept.Errand) {
	a := se.ask(e)
	se.mu.Lock()
	defer se.mu.Unlock()
	var out intercept.Out
	se.core.Use(se.server.node.Snapshot())
	se.core.Answered(a, &out)
	if a.Member > 0 {
		parts, _ := se.server.node.Parts()
		se.core.Follow(parts, &out)
	}
	se.core.EndBatch()
	se.commit(&out, nil, nil)
	out.Reset()
	if se.core.Broken() != nil { // by a frame that was held
		se.client.conn.SetReadDeadline(time.Now().Add(lingerTime))
	}
	se.room.Broadcast()
}

func (se *session) ask(e intercept.Errand) intercept.Answer {
	a := intercept.Answer{Channel: e.Channel, Serial: e.Serial}
	node := se.server.node
	login := se.login()
	var messages, consumers int
	var err error
	switch e.Kind {
	case intercept.Learn:
		err = node.Learn(se.ctx, e.Stream)
	case intercept.Declare, intercept.Delete:
		var held bool
		if held, err = node.Begin(se.ctx, e.Stream, e.Kind == intercept.Delete); held {
			a.Held = e.Stream.Stream
		}
	case intercept.Make:
		err = node.Make(se.ctx, e.Stream, e.Declared, e.Held)
	case intercept.Forget:
		err = node.Forget(se.ctx, e.Stream)
	case intercept.Join:
		a.Member, err = node.Join(se.ctx, e.Stream, se.client.conn.RemoteAddr().String(), e.Tag, e.Exclusive)
	case intercept.Pick:
		a.Queue, err = node.Pick(se.ctx, e.Stream)
	case intercept.Count:
		messages, consumers, err = node.Count(se.ctx, e.Stream, login)
	case intercept.Purge:
		messages, err = node.Purge(se.ctx, e.Stream, login)
	case intercept.Destroy:
		messages, err = node.Destroy(se.ctx, e.Stream, login, e.IfUnused, e.IfEmpty)
	}
	a.Messages, a.Consumers = uint32(messages), uint32(consumers)
	if err != nil {
		a.Err = channelError(e, err)
	}
	return a
}

func (se *session) login() shard.Login {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.handshake.login
}

// channelError is what the client is told of an errand that failed.
func channelError(e intercept.Errand, err error) *frame.ChannelError {
	var r *shard.Refused
	if errors.As(err, &r) {
		return &frame.ChannelError{Code: r.Code, Text: r.Text}
	}
	return &frame.ChannelError{Code: frame.ResourceError,
		Text: fmt.Sprintf("stream '%s' in vhost '%s': %s", e.Stream.Stream, e.Stream.VHost, err)}
}
