package proxy

import (
	"cmp"
	"slices"
	"time"
)

// SessionStatus is one session for the admin view.
type SessionStatus struct {
	Client    string    `json:"client"`
	User      string    `json:"user"`
	VHost     string    `json:"vhost"`
	Channels  int       `json:"channels"`
	Since     time.Time `json:"connected_at"`
	BytesFrom uint64    `json:"bytes_from_client"`
	BytesTo   uint64    `json:"bytes_to_client"`
}

// Sessions are all sessions, the oldest first.
func (s *Server) Sessions() []SessionStatus {
	all := []SessionStatus{}
	for _, se := range s.all() {
		all = append(all, se.status())
	}
	slices.SortFunc(all, func(a, b SessionStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Client, b.Client))
	})
	return all
}

func (se *session) status() SessionStatus {
	se.mu.Lock()
	defer se.mu.Unlock()
	st := SessionStatus{
		Client: se.client.conn.RemoteAddr().String(), Since: se.started,
		User: se.handshake.login.User, VHost: se.handshake.vhost,
		BytesFrom: se.bytes.fromClient, BytesTo: se.bytes.toClient,
	}
	if se.core != nil {
		st.Channels = se.core.Channels()
	}
	return st
}
