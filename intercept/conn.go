package intercept

import (
	"bytes"
	"fmt"
	"time"

	"amqproxy/frame"
	"amqproxy/shard"
)

// settleTime is how long a close of ours waits for the confirms that are due:
// RabbitMQ drops them once the close has arrived.
const settleTime = time.Second

// maxNames bounds the memory of names that were looked up.
const maxNames = 1024

// Conn is one session between connection.open-ok and its end. Not safe for
// concurrent use: the session's lock guards it.
type Conn struct {
	cfg     Config
	snap    *shard.Snapshot
	names   map[string]name // what snap says of the names used lately
	rnd     uint64          // state of a splitmix64 generator: random streams, ties
	serial  uint32          // of the last errand
	learned string          // the name that the node was asked about for the frame in hand

	home     link
	links    []*link    // the others
	now      time.Time  // of the last tick
	channels []*channel // by number; nil where closed
	held     *channel   // whose publish method is a view into the input
	heldSize int        // octets in all channels' held frames
	open     int
	failing  int            // channels whose close waits for confirms
	watching int            // channels that have a watch
	waiting  int            // channels that keep messages for the next tick
	parked   int            // messages that wait for their shard, on all channels
	ledgers  int            // channels that have a ledger
	holds    map[string]int // deliveries that are not acknowledged, and consumers by name, by watched queue
	owed     map[uint16]int // close-oks of the broker's for closes of the client's, by number

	failed   failings    // shards that messages came back from lately, or were nacked
	copies   copies      // of messages for streams that are not settled
	leaving  frame.Frame // the client's connection.close, which waits for the confirms that are due
	phase    phase
	parting  *frame.ConnError // why we close
	broken   *frame.ConnError // the same, if it is the client's fault
	deadline time.Time        // of the wait for confirms before we close
	secret   []byte           // of an update-secret that is not answered yet

	members   map[uint64]*member // consumers of groups, by the node's number
	parts     shard.Parts
	unwritten []unwritten
	marked    []*reader // by settleTo
	ticks     int
	hoard     int // octets of messages that wait for their turn at the client

	tally    tally
	ordered  bool // the connection ended with close and close-ok
	farewell Farewell
}

type phase uint8

const (
	running  phase = iota
	settling       // we are to close, and wait for the confirms that are due
	parted         // our connection.close is on its way to the client
)

type name struct {
	table   *shard.Table
	verdict shard.Verdict
}

// Config is what a Conn must be told.
type Config struct {
	VHost       string
	FrameMax    int    // largest payload that client and broker have agreed on
	ChannelMax  uint16 // highest channel number; 0 is no limit
	HearsCancel bool   // the client has the capability consumer_cancel_notify
	Seed        uint64 // makes the choices at random differ between sessions

	KnowsLogin     bool          // the client's login can be used for links to other brokers
	MaxLinks       int           // how many of these a session may have
	StallTimeout   time.Duration // a leg on which nothing is confirmed for so long is suspect
	ConfirmTimeout time.Duration // a publish to a stream that is not confirmed for so long is given up
	WaitTimeout    time.Duration // how long one may wait for its shard

	HandoverTimeout time.Duration // how long a client may take to settle what it has of a shard that is to be another's
}

// New makes the core of a session whose handshake is done. total counts the
// messages of all sessions.
func New(cfg Config, snap *shard.Snapshot, total *shard.Counters) *Conn {
	return &Conn{
		cfg: cfg, home: link{index: -1, state: linkUp},
		snap: snap, rnd: cfg.Seed,
		tally: tally{total: total},
	}
}

// Use gives the Conn a newer Snapshot.
func (c *Conn) Use(snap *shard.Snapshot) {
	if snap != c.snap {
		c.snap = snap
		clear(c.names)
		clear(c.failed)
	}
}

// Held is how many octets of client frames wait for errands: over a limit of its
// own the shell stops reading the client. None do any more when we close.
func (c *Conn) Held() int {
	if c.phase != running {
		return 0
	}
	return c.heldSize
}

// OnHold tells whether frames of the client's wait for an errand or a link.
func (c *Conn) OnHold() bool {
	for _, ch := range c.channels {
		if ch != nil && ch.onHold() && c.phase == running {
			return true
		}
	}
	return false
}

// Channels is how many channels are open.
func (c *Conn) Channels() int { return c.open }

// EndBatch makes copies of what must outlive the input's memory, and counts.
func (c *Conn) EndBatch() {
	if c.held != nil {
		c.held.publish.method = append(frame.Frame(nil), c.held.publish.method...)
		c.held = nil
	}
	c.tally.flush()
}

// find tells what a name is, without allocating for one that was used lately.
func (c *Conn) find(b []byte) (*shard.Table, shard.Verdict) {
	if len(b) == 0 {
		return nil, shard.Ordinary
	}
	if n, known := c.names[string(b)]; known {
		return n.table, n.verdict
	}
	if len(c.names) >= maxNames {
		clear(c.names)
	}
	t, v := c.snap.Find(c.cfg.VHost, string(b))
	if c.names == nil { // the maps of a session that needs none would be half its memory
		c.names = map[string]name{}
	}
	c.names[string(b)] = name{t, v}
	return t, v
}

// exchange tells what the name of an exchange is: that of a stream that has ended
// is an ordinary one, whatever its queue still is.
func (c *Conn) exchange(b []byte) (*shard.Table, shard.Verdict) {
	t, v := c.find(b)
	if t != nil && t.Settings.Ended {
		return nil, shard.Ordinary
	}
	return t, v
}

// random is the next number of splitmix64.
func (c *Conn) random() uint64 {
	c.rnd += 0x9E3779B97F4A7C15
	z := c.rnd
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// FromClient takes a frame from the client. The error, a *frame.ConnError, ends
// the connection.
func (c *Conn) FromClient(f frame.Frame, out *Out) error {
	if bytes.Equal(f, frame.Heartbeat) {
		return nil // each side keeps its own; one with a fault is the broker's to answer
	}
	if c.phase != running {
		c.partingClient(f, out)
		return nil
	}
	if c.leaving != nil { // nothing counts behind connection.close
		return nil
	}
	n := f.Channel()
	if n == 0 {
		c.connectionFromClient(f, out)
		return nil
	}
	if n > c.cfg.ChannelMax && c.cfg.ChannelMax > 0 { // RabbitMQ counts channels only, and we keep memory by number
		return &frame.ConnError{Code: frame.NotAllowed, Text: fmt.Sprintf("channel number %d is above the negotiated channel_max (%d)", n, c.cfg.ChannelMax)}
	}
	c.channelFromClient(n, f, out)
	return nil
}

// channelFromClient takes a frame on a channel, in whatever state it is.
func (c *Conn) channelFromClient(n uint16, f frame.Frame, out *Out) {
	switch ch := c.channel(n); {
	case ch == nil:
		c.unopened(n, f, out)
	case ch.state != chOpen:
		c.closingFromClient(ch, f, out)
	case ch.wait.what != waitNothing || len(ch.heldFrames) > 0:
		c.hold(ch, f)
	default:
		c.openFromClient(ch, f, out)
	}
}

// openFromClient takes a frame on a channel that is open and waits for nothing.
func (c *Conn) openFromClient(ch *channel, f frame.Frame, out *Out) {
	switch {
	case ch.publish.state != pubNone:
		c.contentFromClient(ch, f, out)
	case f.Type() == frame.TypeMethod:
		c.clientMethod(ch, f, out)
	default:
		out.Home.view(f)
	}
}

// clientMethod is the table of contents: what each method of a client leads to.
func (c *Conn) clientMethod(ch *channel, f frame.Frame, out *Out) {
	switch f.Method() {
	case frame.BasicPublish:
		c.basicPublish(ch, f, out)
		return
	case frame.BasicAck, frame.BasicNack, frame.BasicReject:
		if ch.feed != nil {
			c.settle(ch, f, out)
			return
		}
		c.acknowledged(ch, f, out)
		out.Home.view(f)
		return
	case frame.BasicRecover, frame.BasicRecoverAsync:
		if ch.feed != nil {
			c.recover(ch, f, out)
		}
		if f.Method() == frame.BasicRecoverAsync {
			c.acknowledged(ch, f, out)
			out.Home.view(f)
			return
		}
	case frame.BasicQos:
		c.basicQos(ch, f, out)
		return
	}
	if !readable(f) {
		c.forward(ch, f, out)
		return
	}
	switch f.Method() {
	case frame.BasicConsume:
		c.basicConsume(ch, f, out)
	case frame.BasicGet:
		c.basicGet(ch, f, out)
	case frame.BasicCancel:
		c.basicCancel(ch, f, out)
	case frame.ExchangeDeclare:
		c.exchangeDeclare(ch, f, out)
	case frame.ExchangeDelete:
		c.exchangeDelete(ch, f, out)
	case frame.ExchangeBind:
		c.exchangeBind(ch, f, out)
	case frame.QueueDeclare:
		c.queueDeclare(ch, f, out)
	case frame.QueueBind, frame.QueueUnbind:
		c.queueBind(ch, f, out)
	case frame.QueuePurge, frame.QueueDelete:
		c.queueSet(ch, f, out)
	case frame.ConfirmSelect:
		c.confirmSelect(ch, out)
		c.forward(ch, f, out)
	case frame.TxSelect:
		if ch.feed != nil {
			c.fail(ch, &frame.ChannelError{Code: frame.PreconditionFailed, Method: f.Method(), Text: "the channel has messages of a stream's group, which a transaction can't reach"}, out)
			return
		}
		ch.tx, ch.lastSnap = true, nil // its publishes go another way
		c.forward(ch, f, out)
	case frame.ChannelClose:
		c.clientCloses(ch, f, out)
	default:
		c.forward(ch, f, out)
	}
}

// FromHome takes a frame from the home link.
func (c *Conn) FromHome(f frame.Frame, out *Out) error {
	if bytes.Equal(f, frame.Heartbeat) {
		return nil
	}
	n := f.Channel()
	if n == 0 {
		c.connectionFromHome(f, out)
		return nil
	}
	if c.phase == parted { // both sides were told that nothing more counts
		return nil
	}
	ch := c.channel(n)
	switch {
	case ch == nil:
		if f.Type() == frame.TypeMethod && f.Method() == frame.ChannelCloseOk {
			c.closeOkOwed(n)
		}
		out.Client.view(f)
	case f.Type() != frame.TypeMethod:
		c.contentFromHome(ch, f, out)
	default:
		c.homeMethod(ch, f, out)
	}
	return nil
}

// homeMethod is the same for what a broker sends.
func (c *Conn) homeMethod(ch *channel, f frame.Frame, out *Out) {
	switch m := f.Method(); m {
	case frame.BasicDeliver:
		c.delivered(ch, f)
		c.watchDelivery(ch, f, out)
		ch.homeTagged(f, ch.feed != nil && ch.quiet.delivers(f))
	case frame.BasicConsumeOk:
		ch.quiet.consumed(f)
	case frame.BasicReturn:
		c.returned(ch, f)
		if c.wasOurs(ch, f) {
			c.beginsComeback(ch, &ch.leg, f)
			return
		}
	case frame.BasicAck, frame.BasicNack:
		if c.settled(ch, f, out) {
			return
		}
	case frame.ChannelFlowOk:
		if c.proven(ch, &ch.leg, out) {
			return
		}
	case frame.TxCommitOk:
		if c.commitLost(ch, out) {
			return
		}
	case frame.BasicGetOk, frame.BasicGetEmpty:
		if c.getAnswered(ch, f, out) {
			return
		}
	case frame.BasicRecoverOk:
		c.acknowledged(ch, f, out)
		out.Client.view(f)
		c.homeRecovered(ch, out)
		c.replied(ch, m, out)
		return
	case frame.BasicCancel:
		ch.quiet.ended(f)
		c.consumerEnded(ch, f, out)
	case frame.BasicCancelOk:
		if c.hasLeft(ch, f, out) {
			c.replied(ch, m, out)
			return
		}
		ch.cancels = max(ch.cancels-1, 0)
		ch.quiet.ended(f)
		c.consumerEnded(ch, f, out)
	case frame.ExchangeDeclareOk, frame.ExchangeDeleteOk:
		if c.exchangeAnswered(ch, m, out) {
			return
		}
	case frame.ChannelClose, frame.ChannelCloseOk:
		c.closeFromHome(ch, f, out)
		return
	}
	if f.Method().HasContent() {
		ch.down.begin()
	}
	out.Client.view(f)
	c.replied(ch, f.Method(), out)
}
