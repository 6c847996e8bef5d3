package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports come from below the kernel's usual ephemeral range (32768 and up), so that no outgoing
// connection takes one while a node is down between Kill and Boot.
const (
	firstPort = 26000
	lastPort  = 32700
)

// port is a TCP port on loopback that no other user of this package, in this program or another,
// is given until release. The claim is a listening abstract socket named after the port: it is
// exclusive, leaves no file behind and goes away with the program.
type port struct {
	number int
	claim  net.Listener
}

func reservePort() (*port, error) {
	for range 200 {
		number := firstPort + rand.IntN(lastPort-firstPort+1)
		claim, err := net.Listen("unix", fmt.Sprintf("@amqproxy-test-port-%d", number))
		if err != nil {
			continue
		}
		p := &port{number: number, claim: claim}
		if p.free() {
			return p, nil
		}
		p.release()
	}
	return nil, errors.New("found no free port")
}

// free tells whether a program that doesn't know our claims listens on the port.
func (p *port) free() bool {
	l, err := net.Listen("tcp", p.addr())
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func (p *port) addr() string { return net.JoinHostPort("127.0.0.1", p.String()) }

func (p *port) String() string { return strconv.Itoa(p.number) }

func (p *port) release() { p.claim.Close() }

// ReserveAddress reserves a port on loopback until release, for another program that has to be found
// at the same place over its restarts, and returns host:port.
func ReserveAddress() (addr string, release func(), err error) {
	p, err := reservePort()
	if err != nil {
		return "", nil, err
	}
	return p.addr(), p.release, nil
}
