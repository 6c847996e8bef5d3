package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"amqproxy/frame"
)

// bufferSize bounds what is encoded beforehand of one publisher.
const (
	bufferSize     = 1 << 20
	bufferMessages = 4096
)

// publisher publishes the same messages again and again.
type publisher struct {
	*client
	buf      []byte // shared: only to be read
	size     int    // octets of one message on the wire
	confirms bool
	window   int // how many may be without a confirm; 0 is no limit

	mu        sync.Mutex
	news      *sync.Cond
	sent      uint64
	confirmed uint64          // all messages up to this one
	ahead     map[uint64]bool // those confirmed beyond it
	err       error           // why no more confirms come
}

// encodeMessages encodes messages with so many different keys, each of the size
// that is given too.
func encodeMessages(exchange string, keys, body int) (buf []byte, size int) {
	size = len(appendMessage(nil, exchange, key(0), body))
	for i := range min(bufferMessages, max(bufferSize/size, 16)) {
		buf = appendMessage(buf, exchange, key(i%keys), body)
	}
	return buf, size
}

func newPublisher(addr string, buf []byte, size int, confirms bool, window int) (*publisher, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	p := &publisher{client: c, buf: buf, size: size, confirms: confirms, window: window, ahead: map[uint64]bool{}}
	p.news = sync.NewCond(&p.mu)
	if confirms {
		if _, err := c.call("1 confirm.select", frame.ConfirmSelectOk); err != nil {
			c.Close()
			return nil, err
		}
	}
	return p, nil
}

// key is the routing key of message i. All are of one length.
func key(i int) string { return fmt.Sprintf("key-%06d", i) }

// run publishes until a time, and returns when the broker has all of it.
func (p *publisher) run(until time.Time) error {
	p.SetDeadline(until.Add(patience))
	var reading sync.WaitGroup
	if p.confirms {
		reading.Go(p.readConfirms)
	}
	err := p.write(until)
	if err == nil && p.confirms {
		err = p.settle()
	}
	if p.confirms {
		if err != nil {
			p.Close()
		}
		reading.Wait()
	} else if err == nil { // it is answered when all brokers have taken all messages, over links too
		_, err = p.call(`1 channel.close reply-code=200 reply-text="done"`, frame.ChannelCloseOk)
	}
	return err
}

func (p *publisher) write(until time.Time) error {
	piece := len(p.buf)
	if p.window > 0 {
		piece = max(p.window/4, 1) * p.size
	}
	for at := 0; time.Now().Before(until); {
		b := p.buf[at:min(at+piece, len(p.buf))]
		if at += len(b); at == len(p.buf) {
			at = 0
		}
		if err := p.await(uint64(len(b) / p.size)); err != nil {
			return err
		}
		if _, err := p.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// await counts n more messages, when the window has room for them.
func (p *publisher) await(n uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.window > 0 && p.sent+n-p.confirmed-uint64(len(p.ahead)) > uint64(p.window) && p.err == nil {
		p.news.Wait()
	}
	p.sent += n
	return p.err
}

// settle waits for the last confirm.
func (p *publisher) settle() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.confirmed < p.sent && p.err == nil {
		p.news.Wait()
	}
	if p.confirmed == p.sent {
		p.SetReadDeadline(time.Now()) // its reader has nothing more to do
		return nil
	}
	return p.err
}

func (p *publisher) readConfirms() {
	for {
		f, err := p.next()
		p.mu.Lock()
		if err == nil && f.Type() == frame.TypeMethod {
			a := f.Args()
			switch f.Method() {
			case frame.BasicAck:
				p.acked(a.LongLong(), a.Bit())
			case frame.BasicNack, frame.ChannelClose, frame.ConnectionClose:
				err = errors.New(f.String())
			}
		}
		p.err = err
		p.news.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// acked counts a confirm. A broker with several queues confirms out of order.
func (p *publisher) acked(tag uint64, multiple bool) {
	if !multiple {
		p.ahead[tag] = true
		tag = p.confirmed
	}
	for len(p.ahead) > 0 && (p.confirmed < tag || p.ahead[p.confirmed+1]) {
		p.confirmed++
		delete(p.ahead, p.confirmed)
	}
	p.confirmed = max(p.confirmed, tag)
}
