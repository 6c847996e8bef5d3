package shard

import "fmt"

// Refused is a broker's or the node's refusal, in the terms of AMQP's channel
// errors. Text has no code's name in front.
type Refused struct {
	Code uint16
	Text string
}

func (r *Refused) Error() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }
