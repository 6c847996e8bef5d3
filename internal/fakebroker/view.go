package fakebroker

import (
	"cmp"
	"slices"
)

// QueueView is one queue as it is at a moment, for who shows a Server to people.
type QueueView struct {
	VHost, Name string
	Ready       int      // messages that wait for a consumer
	Unacked     int      // that consumers have
	Stored      uint64   // that it has ever taken
	Readers     []string // the tags of its consumers: of one with a single active consumer, that one's
}

// Queues are all queues of all vhosts, by name. A Server that does not serve yet has none.
func (s *Server) Queues() []QueueView {
	s.mu.Lock()
	vhosts := s.vhosts
	s.mu.Unlock()
	all := []QueueView{}
	for _, v := range vhosts {
		all = append(all, v.view()...)
	}
	slices.SortFunc(all, func(a, b QueueView) int {
		return cmp.Or(cmp.Compare(a.VHost, b.VHost), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func (v *vhost) view() (all []QueueView) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, q := range v.queues {
		view := QueueView{VHost: v.name, Name: q.name, Ready: q.ready.len(), Stored: q.seq}
		for _, k := range q.consumers {
			view.Unacked += k.unacked
			if len(view.Readers) == 0 || !q.single {
				view.Readers = append(view.Readers, k.tag)
			}
		}
		slices.Sort(view.Readers)
		all = append(all, view)
	}
	return all
}
