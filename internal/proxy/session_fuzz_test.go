package proxy

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"amqproxy/frame"
)

// What a fuzzed session's client and broker say, beside nonsense of the fuzzer's own.
var (
	fuzzedClient = []string{
		`0 connection.start-ok mechanism="PLAIN" response="\x00guest\x00guest"`, `0 connection.start-ok mechanism="AMQPLAIN"`, `0 connection.secure-ok response="x"`,
		`0 connection.tune-ok channel-max=3 frame-max=4096 heartbeat=1`, `0 connection.tune-ok`, `0 connection.tune-ok frame-max=1`, `0 connection.open virtual-host="/"`,
		`0 connection.close reply-code=200`, `0 connection.close-ok`, `0 connection.update-secret new-secret="s"`, `0 heartbeat`, `1 heartbeat`,
		`1 channel.open`, `2 channel.open`, `4 channel.open`, `65535 channel.open`, `1 channel.close reply-code=200`, `1 channel.close-ok`, `2 channel.close`,
		`1 confirm.select`, `1 confirm.select nowait`, `1 tx.select`, `1 basic.qos prefetch-count=1`, `1 basic.ack delivery-tag=1 multiple`, `1 basic.nack delivery-tag=2`,
		`1 basic.publish exchange="shard.a" routing-key="k"`, `1 basic.publish exchange="e" routing-key="k"`, `2 basic.publish exchange="shard.new"`, `1 basic.publish routing-key="shard.a"`, `2 basic.publish exchange="shard.b"`,
		`1 header body-size=0`, `1 header body-size=3`, `1 header body-size=3 headers={BCC=["q"]}`, `2 header body-size=18446744073709551615`, `1 header body-size=0 headers={CC=5}`,
		`1 body "abc"`, `1 body "abcd"`, `2 body "ab"`, `1 body ""`,
		`1 basic.consume queue="shard.a" consumer-tag="c"`, `2 basic.consume queue="shard.a" nowait`, `1 basic.cancel consumer-tag="c"`, `1 basic.get queue="shard.a"`,
		`1 queue.declare queue="shard.a" passive`, `1 queue.declare queue="shard.a" durable`, `1 queue.declare queue="q"`, `1 queue.bind queue="shard.a" exchange="e"`,
		`1 queue.purge queue="shard.a"`, `1 queue.delete queue="shard.a"`, `1 exchange.declare exchange="shard.a" type="topic" durable`, `2 exchange.declare exchange="shard.new" type="fanout"`,
		`2 exchange.declare exchange="shard.new" type="topic" nowait`, `1 exchange.delete exchange="shard.a"`, `1 exchange.bind destination="shard.a" source="e"`,
	}
	fuzzedBroker = []string{
		`0 connection.start version-minor=9 mechanisms="PLAIN"`, `0 connection.secure challenge="x"`, `0 connection.tune channel-max=3 frame-max=4096 heartbeat=1`,
		`0 connection.tune`, `0 connection.tune frame-max=1`, `0 connection.open-ok`, `0 connection.close reply-code=320`, `0 connection.close-ok`, `0 connection.blocked`,
		`0 connection.update-secret-ok`, `0 heartbeat`, `2 heartbeat`,
		`1 channel.open-ok`, `2 channel.open-ok`, `1 channel.close reply-code=404`, `1 channel.close-ok`, `2 channel.close-ok`, `2 channel.close reply-code=406 class-id=40 method-id=10`,
		`1 confirm.select-ok`, `1 basic.ack delivery-tag=1`, `1 basic.ack delivery-tag=18446744073709551615 multiple`, `1 basic.nack delivery-tag=2`, `1 basic.qos-ok`,
		`1 basic.deliver consumer-tag="c" delivery-tag=1 exchange="shard.a"`, `1 basic.return exchange="shard.a"`, `1 basic.get-ok delivery-tag=2 exchange="shard.a"`, `1 basic.get-empty`,
		`1 header body-size=0`, `1 header body-size=3`, `1 header body-size=18446744073709551615`, `1 body "abc"`, `9 body "x"`,
		`1 basic.consume-ok consumer-tag="c"`, `2 basic.consume-ok`, `1 basic.cancel-ok consumer-tag="c"`, `1 basic.cancel consumer-tag="c"`,
		`1 exchange.declare-ok`, `2 exchange.declare-ok`, `1 exchange.delete-ok`, `1 queue.declare-ok queue="q"`, `1 queue.purge-ok`,
	}
)

// FuzzSession: whatever client and broker send, in whatever pieces and order, nothing
// panics, a session whose sockets are closed ends, leaves nothing behind, and has said
// no more than maxTimes what it was told.
func FuzzSession(f *testing.F) {
	client, broker := frames(f, fuzzedClient), frames(f, fuzzedBroker)
	for _, seed := range fuzzedSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			r := &fuzzed{pair: p, program: program[:min(len(program), 4096)]}
			if r.octet()%2 == 0 {
				p.open()
			}
			for len(r.program) > 0 {
				r.step(client, broker)
			}
			r.flush(&r.fromClient, p.client, len(r.fromClient))
			r.flush(&r.fromBroker, p.broker, len(r.fromBroker))
			p.end()
			r.limits()
		})
	})
}

func frames(t testing.TB, texts []string) (all [][]byte) {
	for _, text := range texts {
		all = append(all, lines(t, text))
	}
	return all
}

// fuzzed plays both peers by a program.
type fuzzed struct {
	*pair
	program                []byte
	fromClient, fromBroker []byte // said, and not sent yet
	ticks                  int
}

func (r *fuzzed) octet() byte {
	if len(r.program) == 0 {
		return 0
	}
	b := r.program[0]
	r.program = r.program[1:]
	return b
}

// The steps of a program.
const (
	opClient    = iota // the client says one of fuzzedClient
	opBroker           // the broker says one of fuzzedBroker
	opClientRaw        // the client says the octets that follow
	opBrokerRaw
	opClientPart // so many octets of what the client has said are sent
	opBrokerPart
	opSend // all of it is
	opTime // time passes
	ops
)

func (r *fuzzed) step(client, broker [][]byte) {
	switch op, arg := r.octet()%ops, int(r.octet()); op {
	case opClient:
		r.fromClient = append(r.fromClient, client[arg%len(client)]...)
	case opBroker:
		r.fromBroker = append(r.fromBroker, broker[arg%len(broker)]...)
	case opClientRaw:
		r.raw(&r.fromClient, arg)
	case opBrokerRaw:
		r.raw(&r.fromBroker, arg)
	case opClientPart:
		r.flush(&r.fromClient, r.client, arg)
	case opBrokerPart:
		r.flush(&r.fromBroker, r.broker, arg)
	case opSend:
		r.flush(&r.fromClient, r.client, len(r.fromClient))
		r.flush(&r.fromBroker, r.broker, len(r.fromBroker))
	case opTime:
		time.Sleep(time.Duration(arg) * 10 * time.Millisecond)
		r.se.tick(time.Now())
		r.ticks++
		synctest.Wait()
	}
}

func (r *fuzzed) raw(said *[]byte, n int) {
	n = min(n, len(r.program))
	*said = append(*said, r.program[:n]...)
	r.program = r.program[n:]
}

func (r *fuzzed) flush(said *[]byte, from *peer, n int) {
	n = min(n, len(*said))
	r.say(from, (*said)[:n])
	*said = (*said)[n:]
}

const (
	// maxTimes is how many octets may come of one, at most: a small method that is
	// refused makes a close for either side, with names and a text of at most 255.
	maxTimes = 20
	// maxBeside is what a session says of its own accord.
	maxBeside = 1024
)

func (r *fuzzed) limits() {
	in, out := r.client.sent, r.client.got
	if r.broker != nil {
		in, out = in+r.broker.sent, out+r.broker.got
	}
	if most := maxTimes*in + maxBeside + 2*len(frame.Heartbeat)*r.ticks; out > most {
		r.t.Errorf("%d octets became %d", in, out)
	}
}

// fuzzedSeeds are programs that go far: what is said in each line is sent at its end.
func fuzzedSeeds(t testing.TB) (seeds [][]byte) {
	for _, dialogue := range [][][2][]string{
		{{{fuzzedClient[25], fuzzedClient[30], `1 body "abc"`}, {`1 basic.ack delivery-tag=1`}}, {{`1 confirm.select`}, {`1 confirm.select-ok`}}},
		{{{`1 basic.consume queue="shard.a" consumer-tag="c"`}, nil}, {nil, {`1 basic.consume-ok consumer-tag="c"`, fuzzedBroker[23], `1 header body-size=3`, `1 body "abc"`}}, {{`1 basic.ack delivery-tag=1 multiple`}, nil}},
		{{{`2 basic.publish exchange="shard.new"`, `2 header body-size=18446744073709551615`, `2 body "ab"`}, nil}, {{`2 channel.close`}, {`2 channel.close-ok`}}},
		{{{`2 exchange.declare exchange="shard.new" type="topic" nowait`, `2 channel.close`}, {`2 exchange.declare-ok`}}, {{`2 channel.open`}, {`2 channel.close-ok`}}},
		{{{`1 queue.declare queue="shard.a" passive`, `1 queue.purge queue="shard.a"`, `1 queue.bind queue="shard.a" exchange="e"`}, nil}, {nil, {`1 channel.close-ok`}}, {{`1 channel.close-ok`, `1 channel.open`}, nil}},
		{{{`1 basic.get queue="shard.a"`}, {`1 basic.get-empty`}}, {nil, {`1 basic.get-empty`}}, {{`0 connection.close reply-code=200`}, {`0 connection.close-ok`}}},
		{{{fuzzedClient[25], `1 header body-size=3`, `1 body "abcd"`}, nil}, {{`0 connection.close-ok`}, nil}},
		{{{`1 confirm.select nowait`, fuzzedClient[26], `1 header body-size=0`, `1 queue.delete queue="shard.a"`}, nil}, {nil, {`0 connection.close reply-code=320`}}},
	} {
		program := []byte{0}
		for _, line := range dialogue {
			for side, texts := range line {
				for _, text := range texts {
					program = append(program, byte(side), indexOf(t, [][]string{fuzzedClient, fuzzedBroker}[side], text))
				}
			}
			program = append(program, opSend, 0)
		}
		seeds = append(seeds, program, append(slices.Clone(program), opTime, 120, opTime, 120))
	}
	return append(seeds, greetingSeed(t), []byte{0, opClientRaw, 7, 1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, opSend, 0}, []byte{0, opBrokerRaw, 7, 3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, opSend, 0})
}

// greetingSeed is a handshake in small pieces.
func greetingSeed(t testing.TB) []byte {
	program := append([]byte{1, opClientRaw, 8}, frame.ProtocolHeader...)
	program = append(program, opClientPart, 3, opSend, 0)
	for _, line := range handshakeLines {
		list, side := fuzzedClient, byte(opClient)
		if !line.client {
			list, side = fuzzedBroker, opBroker
		}
		if i := slices.Index(list, line.text); i >= 0 {
			program = append(program, side, byte(i), opClientPart+side, 9, opSend, 0)
			continue
		}
		b := lines(t, line.text)
		program = append(append(program, opClientRaw+side, byte(len(b))), b...)
		program = append(program, opClientPart+side, 9, opSend, 0)
	}
	return program
}

func indexOf(t testing.TB, list []string, text string) byte {
	i := slices.Index(list, text)
	if i < 0 {
		t.Fatalf("%s is not in the list", text)
	}
	return byte(i)
}
