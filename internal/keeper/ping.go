package keeper

import (
	"context"
	"fmt"
	"net"
	"time"

	"amqproxy/frame"
)

// Ping tells whether the broker at host:port answers the protocol header, and the name
// of its cluster, if it says that. An open port is not enough: a broker that is starting
// or frozen has one too.
func Ping(ctx context.Context, broker string) (cluster string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", broker)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if at, set := ctx.Deadline(); set {
		conn.SetDeadline(at)
	} else {
		conn.SetDeadline(time.Now().Add(time.Second))
	}
	if _, err := conn.Write(frame.ProtocolHeader); err != nil {
		return "", err
	}
	f, err := first(conn)
	if err != nil {
		return "", err
	}
	if f.Type() != frame.TypeMethod || f.Method() != frame.ConnectionStart {
		return "", fmt.Errorf("the broker at %s does not speak AMQP 0-9-1", broker)
	}
	a := f.Args()
	a.Octet()
	a.Octet()
	name, _, _ := a.Table().Find("cluster_name")
	return string(name.Value), nil
}

// first reads the first frame that a broker sends.
func first(conn net.Conn) (frame.Frame, error) {
	r := frame.NewReader(small{}, frame.PreTuneMax)
	for {
		f, err := r.Next()
		if f != nil || err != nil {
			return f, err
		}
		n, err := conn.Read(r.Space())
		if err != nil {
			return nil, err
		}
		r.Filled(n)
	}
}

// small lends buffers for one frame.
type small struct{}

func (small) Get() []byte { return make([]byte, 2048) }
func (small) Put([]byte)  {}
