package intercept

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"amqproxy/shard"
)

// part tells the Conn what one consumer of a group is to read: its number, the stream, and
// shards as NODE/INDEX; or that the stream is gone.
func (s *script) part(words []string) bool {
	member, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil {
		return false
	}
	part := shard.Part{Gone: words[1] == "gone"}
	table, _ := s.conn.find([]byte(words[1]))
	for _, word := range words[2:] {
		node, index, _ := strings.Cut(word, "/")
		at := slices.IndexFunc(table.All(), func(k shard.Shard) bool { return k.Node == node && strconv.Itoa(k.Index) == index })
		if at < 0 {
			return false
		}
		part.Shards = append(part.Shards, table.All()[at])
	}
	if s.parts == nil {
		s.parts = map[uint64]shard.Part{}
	}
	s.parts[member] = part
	s.conn.Follow(shard.Parts{Of: s.parts}, &s.out)
	return true
}

// takeGroups writes down what the node is told of consumers of groups.
func (s *script) takeGroups(n int) {
	for _, queue := range s.out.Seated {
		s.say(n, "seated %q", queue)
	}
	for _, r := range s.out.Readings {
		state := string(r.State)
		if r.Ended {
			state = "ended"
		}
		if r.Unacked > 0 {
			state += fmt.Sprintf(" unacked=%d", r.Unacked)
		}
		s.say(n, "member %d: %q %s", r.Member, r.Queue, state)
	}
	for _, number := range s.out.Left {
		s.say(n, "member %d: left", number)
		delete(s.parts, number)
	}
}
