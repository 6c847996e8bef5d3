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
	key     string
	seq     int
	tried   bool                       // it was sent, and is not confirmed
	confirm *amqp.DeferredConfirmation // that is awaited; nil for none
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
	for _, o := range p.keys {
		o.confirm = nil
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-closed:
			return errors.New("the channel was closed")
		case <-tick.C:
			awaited := p.settle()
			o := p.turn()
			switch {
			case o == nil && awaited == 0 && p.hasEnough():
				return errDone
			case o == nil:
				continue
			}
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
	o.tried = true
	p.ledger.published(o.key, o.seq)
	o.confirm, err = ch.PublishWithDeferredConfirmWithContext(ctx, stream, o.key, false, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body})
	return err
}

// settle takes what has been confirmed, and tells how many confirms are awaited. A nack
// means that a message is sent again. (They are not had from NotifyPublish: it brings
// confirms into order, and an ack for several that comes behind an early nack makes that
// one an ack, too.)
func (p *producer) settle() (awaited int) {
	for _, o := range p.keys {
		if o.confirm == nil {
			continue
		}
		select {
		case <-o.confirm.Done():
		default:
			awaited++
			continue
		}
		if o.confirm.Acked() {
			p.ledger.confirmed(o.key, o.seq)
			p.counted()
			o.seq++
			o.tried = false
		}
		o.confirm = nil
	}
	return awaited
}

// turn is what is to be sent next; nil if nothing can be.
func (p *producer) turn() *outgoing {
	enough := p.hasEnough()
	for range p.keys {
		o := p.keys[p.next]
		p.next = (p.next + 1) % len(p.keys)
		if o.confirm == nil && (o.tried || !enough) {
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
