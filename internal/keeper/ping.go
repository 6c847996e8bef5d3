package keeper

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"amqproxy/frame"
)

// Ping tells whether the broker at host:port answers the protocol header. An open
// port is not enough: a broker that is starting or frozen has one too.
func Ping(ctx context.Context, broker string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", broker)
	if err != nil {
		return err
	}
	defer conn.Close()
	if at, set := ctx.Deadline(); set {
		conn.SetDeadline(at)
	} else {
		conn.SetDeadline(time.Now().Add(time.Second))
	}
	if _, err := conn.Write(frame.ProtocolHeader); err != nil {
		return err
	}
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return err
	}
	if first[0] != frame.TypeMethod {
		return fmt.Errorf("the broker at %s does not speak AMQP 0-9-1", broker)
	}
	return nil
}
