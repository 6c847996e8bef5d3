package shard

import "fmt"

// Login is a name and password for a broker. Printing one shows no password.
type Login struct {
	User, Password string
}

func (l Login) String() string   { return l.User }
func (l Login) GoString() string { return fmt.Sprintf("shard.Login{%q}", l.User) }

// Refused is a broker's or the node's refusal, in the terms of AMQP's channel
// errors. Text has no code's name in front.
type Refused struct {
	Code uint16
	Text string
}

func (r *Refused) Error() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }
