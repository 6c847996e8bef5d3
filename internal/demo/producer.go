package demo

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// publishEvery is the pace of a producer.
const publishEvery = 5 * time.Millisecond

// message is what the demo publishes, as JSON, so that a client that joins in can read it.
type message struct {
	Producer string `json:"producer"`
	Key      string `json:"key"`
	Seq      int    `json:"seq"`
}

// producer publishes to its own keys in turns. Of each key it sends a message when the one
// before is confirmed, and again what was not: so a key's messages are stored in order.
type producer struct {
	client
	ledger *ledger
	keys   []*outgoing
	next   int             // of keys, whose turn it is
	enough <-chan struct{} // closed when nothing new is to be published
	done   chan struct{}   // closed when all of it is confirmed, or the demo ends
}

// outgoing is the message of a key that is to be sent now.
type outgoing struct {
	key    string
	seq    int
	tried  bool // it was sent, and not confirmed
	awaits bool // its confirm is awaited
}

func (p *producer) run(ctx context.Context) {
	defer close(p.done)
	p.live(ctx, p.publish)
}

// publish publishes until the channel ends; when there is enough, until all is confirmed.
func (p *producer) publish(ctx context.Context, ch *amqp.Channel) error {
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, len(p.keys)))
	sent := map[uint64]*outgoing{}
	for _, o := range p.keys {
		o.awaits = false
	}
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c, open := <-confirms:
			if !open {
				return errors.New("the channel was closed")
			}
			p.settle(sent[c.DeliveryTag], c.Ack)
			delete(sent, c.DeliveryTag)
		case <-tick.C:
			o := p.turn()
			switch {
			case o == nil && p.hasEnough() && len(sent) == 0:
				return errDone
			case o == nil:
				continue
			}
			sent[ch.GetNextPublishSeqNo()] = o
			if err := p.send(ctx, ch, o); err != nil {
				return err
			}
		}
	}
}

func (p *producer) send(ctx context.Context, ch *amqp.Channel, o *outgoing) error {
	body, err := json.Marshal(message{p.name, o.key, o.seq})
	if err != nil {
		return err
	}
	o.tried, o.awaits = true, true
	p.ledger.published(o.key, o.seq)
	return ch.PublishWithContext(ctx, stream, o.key, false, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body})
}

// settle takes what the broker says to a message. A nack means that it is sent again.
func (p *producer) settle(o *outgoing, acked bool) {
	o.awaits = false
	if acked {
		p.ledger.confirmed(o.key, o.seq)
		p.counted()
		o.seq++
		o.tried = false
	}
}

// turn is what is to be sent next; nil if nothing can be.
func (p *producer) turn() *outgoing {
	enough := p.hasEnough()
	for range p.keys {
		o := p.keys[p.next]
		p.next = (p.next + 1) % len(p.keys)
		if !o.awaits && (o.tried || !enough) {
			return o
		}
	}
	return nil
}

func (p *producer) hasEnough() bool {
	select {
	case <-p.enough:
		return true
	default:
		return false
	}
}
