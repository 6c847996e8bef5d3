package proxy

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaultEnds: a client that has broken the protocol is told so, and its session
// ends soon, though it neither answers nor closes its socket, and the broker, which
// has been told goodbye, leaves that to us.
func TestFaultEnds(t *testing.T) {
	publish := []string{`1 basic.publish exchange="e"`, `1 header body-size=1`, `1 body "abc"`}
	held := []string{`1 basic.publish exchange="shard.b"`, `1 header body-size=1`, `1 body "abc"`}
	wrongEnd := []byte{8, 0, 0, 0, 0, 0, 0, 0}
	for name, says := range map[string][]byte{
		"wrong end octet":                   wrongEnd,
		"size of 0xFFFFFFFF":                {3, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF},
		"channel above channel_max":         lines(t, "2048 channel.open"),
		"body too long":                     lines(t, publish...),
		"body too long, held for an errand": lines(t, held...),
		"wrong end behind held frames":      append(lines(t, held[:2]...), wrongEnd...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.node.slow = 5 * time.Second
				p.open()
				p.say(p.client, says)
				time.Sleep(p.node.slow)
				synctest.Wait()
				if heard := string(p.client.heard); !strings.Contains(heard, "_ERROR - ") && !strings.Contains(heard, "NOT_ALLOWED - ") {
					t.Errorf("%s: the client was not told", name)
				}
				p.say(p.broker, lines(t, "0 connection.close-ok"))
				p.wantEnd(name)
			})
		})
	}
}
