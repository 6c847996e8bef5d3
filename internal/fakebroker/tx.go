package fakebroker

import (
	"time"

	"amqproxy/frame"
)

// transaction is what a channel with transactions has done since the last commit.
type transaction struct {
	published []func(now time.Time)
	settled   []*delivery           // in the order of their tags
	fates     []func(now time.Time) // of those, at the commit
}

func (ch *channel) txSelect(*frame.Args) error {
	if ch.confirming {
		return refuse(frame.PreconditionFailed, "cannot switch from confirm to tx mode")
	}
	if ch.tx == nil {
		ch.tx = &transaction{}
	}
	ch.ok(frame.TxSelectOk, false)
	return nil
}

func (ch *channel) txCommit(*frame.Args) error {
	if ch.tx == nil {
		return refuse(frame.PreconditionFailed, "channel is not transactional")
	}
	now, done := time.Now(), ch.tx
	ch.tx = &transaction{}
	for _, publish := range done.published {
		publish(now)
	}
	for _, fate := range done.fates {
		fate(now)
	}
	ch.ok(frame.TxCommitOk, false)
	return nil
}

// txRollback forgets what was published, and has what was settled unacknowledged
// again: it is not delivered again.
func (ch *channel) txRollback(*frame.Args) error {
	if ch.tx == nil {
		return refuse(frame.PreconditionFailed, "channel is not transactional")
	}
	ch.keep(ch.tx.settled)
	ch.tx = &transaction{}
	ch.ok(frame.TxRollbackOk, false)
	return nil
}
