package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
)

// keepDeletions is how long a deletion is remembered. A node that was away for
// longer may bring back what was deleted meanwhile.
const keepDeletions = 7 * 24 * time.Hour

// Config is what a Cluster must be told. Times left zero have defaults.
type Config struct {
	ID        string // persistent and random: the gossip identity
	Node      string // the node's name, which no other proxy may claim
	Listen    string // host:port, TCP and UDP; "" is a cluster of this member alone
	Advertise string // host:port by which others reach Listen; "" is Listen
	Join      []string
	Label     string // keeps foreign clusters out; not a secret
	SecretKey []byte // 16, 24 or 32 octets encrypt the gossip; nil does not
	Remember  Memory // what was known before

	Transient func(key string) bool // facts that are not to be remembered; nil is none

	RejoinEvery time.Duration        // default 10 s, with jitter
	Transport   memberlist.Transport // for tests; nil listens on Listen
	Tune        func(*memberlist.Config)
	Now         func() time.Time // for tests; nil is time.Now
}

// Memory is what a Cluster knows and should be told again after a restart.
type Memory struct {
	Peers []string `json:"peers,omitempty"` // host:port of other members
	Facts []Fact   `json:"facts,omitempty"`
}

// Presence is what is known of a member's life.
type Presence uint8

const (
	Alive Presence = iota
	Lost           // it fell silent or left; which of the two, its own fact says
)

// Member is a proxy that is or was there.
type Member struct {
	ID       string
	Node     string
	Addr     string // of its gossip
	Presence Presence
	Since    time.Time // when Presence became what it is, as seen here

	reach memberlist.Node // as memberlist wants it to send something
}

// State is an immutable picture of the cluster.
type State struct {
	Self    string   // our ID
	Members []Member // sorted by node name and ID; ourselves among them
	Facts   map[string]Fact
	Digest  uint64 // of the facts
	Lasting uint64 // of those that are remembered
	Stirs   int    // how often members came or went
}

// meta is what a member says of itself in memberlist's own messages, at most 512
// octets.
type meta struct {
	Node string `json:"n"`
}

// Cluster is this node's membership. Its methods may be called concurrently.
type Cluster struct {
	cfg  Config
	log  *zap.Logger
	list *memberlist.Memberlist // nil without gossip
	poke chan struct{}          // cap 1: something changed

	changed chan struct{} // cap 1: State is new

	noting sync.Mutex // guards events; taken under memberlist's locks
	events []event

	// mu is never held while memberlist is called, which has locks of its own
	// and calls us under them.
	mu      sync.Mutex
	facts   *facts
	unsent  map[string]bool // keys of facts that were set here and not sent yet
	members map[string]Member
	stirs   int
	state   *State
	senders map[string]*sender
	leaving bool       // in order
	dropped bool       // by Drop: nothing is sent any more
	sending int        // senders that are busy
	idle    *sync.Cond // sending fell to 0
}

// New starts gossip. It knows nobody until Join; Run must be called too.
func New(cfg Config, log *zap.Logger) (*Cluster, error) {
	c := &Cluster{
		cfg: cfg, log: log,
		poke:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		facts:   newFacts(keepDeletions),
		unsent:  map[string]bool{},
		members: map[string]Member{},
		senders: map[string]*sender{},
	}
	c.idle = sync.NewCond(&c.mu)
	if c.cfg.Now == nil {
		c.cfg.Now = time.Now
	}
	if c.cfg.Transient != nil {
		c.facts.transient = c.cfg.Transient
	}
	c.facts.merge(cfg.Remember.Facts, c.cfg.Now())
	if c.cfg.RejoinEvery == 0 {
		c.cfg.RejoinEvery = 10 * time.Second
	}
	if cfg.Listen == "" && cfg.Transport == nil {
		c.members[cfg.ID] = Member{ID: cfg.ID, Node: cfg.Node, Presence: Alive, Since: c.cfg.Now()}
		c.look()
		return c, nil
	}
	conf, err := c.gossip()
	if err != nil {
		return nil, err
	}
	list, err := memberlist.Create(conf)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	c.list = list
	c.look()
	return c, nil
}

// gossip is memberlist's configuration. Its defaults for a LAN are right, but
// for the exchange of all facts, which is our safety net and more frequent.
func (c *Cluster) gossip() (*memberlist.Config, error) {
	conf := memberlist.DefaultLANConfig()
	conf.Name = c.cfg.ID
	conf.Label = c.cfg.Label
	conf.SecretKey = c.cfg.SecretKey
	conf.PushPullInterval = 5 * time.Second
	conf.TCPTimeout = 3 * time.Second
	conf.DeadNodeReclaimTime = time.Second // a proxy may come back at another address
	conf.Delegate, conf.Events, conf.Merge = &delegate{c}, &delegate{c}, &delegate{c}
	conf.LogOutput = &logWriter{c.log}
	if c.cfg.Transport != nil {
		conf.Transport = c.cfg.Transport
	} else {
		var err error
		if conf.BindAddr, conf.BindPort, err = split(c.cfg.Listen); err != nil {
			return nil, fmt.Errorf("gossip listen: %w", err)
		}
		if c.cfg.Advertise != "" {
			if conf.AdvertiseAddr, conf.AdvertisePort, err = split(c.cfg.Advertise); err != nil {
				return nil, fmt.Errorf("gossip advertise: %w", err)
			}
		}
	}
	if c.cfg.Tune != nil {
		c.cfg.Tune(conf)
	}
	return conf, nil
}

func split(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	port, err = strconv.Atoi(p)
	return host, port, err
}

// Addr is where this member's gossip is reached.
func (c *Cluster) Addr() string {
	if c.list == nil {
		return ""
	}
	return c.list.LocalNode().Address()
}

// Changed is poked when there may be a new State.
func (c *Cluster) Changed() <-chan struct{} { return c.changed }

// State is the newest picture.
func (c *Cluster) State() *State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Memory is what to remember over a restart.
func (c *Cluster) Memory() Memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := Memory{Facts: c.facts.list(c.cfg.Now()), Peers: slices.Clone(c.cfg.Remember.Peers)}
	m.Facts = slices.DeleteFunc(m.Facts, func(f Fact) bool { return c.facts.transient(f.Key) })
	for _, member := range c.members {
		if member.ID != c.cfg.ID && !slices.Contains(m.Peers, member.Addr) {
			m.Peers = append(m.Peers, member.Addr)
		}
	}
	slices.Sort(m.Peers)
	return m
}

// Set tells everybody a fact: the JSON of value. A nil value deletes it. What is
// the case already is not told again.
func (c *Cluster) Set(key string, value any) error {
	var raw json.RawMessage
	if value != nil {
		b, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("fact %s: %w", key, err)
		}
		raw = b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.facts.all[key]
	if string(old.Value) == string(raw) && (known || raw == nil) {
		return nil
	}
	c.facts.set(key, c.cfg.ID, raw, c.cfg.Now())
	c.unsent[key] = true
	c.picture()
	c.wake()
	return nil
}

// ErrNameTaken means that another proxy runs with our node name.
var ErrNameTaken = errors.New("another proxy has this node name")

// Join looks for other members at the configured and the remembered addresses,
// until one answers or ctx is done. It returns how many did. A member that has
// our node name is an ErrNameTaken.
func (c *Cluster) Join(ctx context.Context) (int, error) {
	if c.list == nil {
		return 0, nil
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		addrs := c.others(false) // who gossips with us already has not told its facts by that
		n, err := c.tryJoin(addrs)
		if n > 0 || ctx.Err() != nil || len(addrs) == 0 {
			if n == 0 && err != nil {
				c.log.Warn("no other proxy was found; they are looked for again and again", zap.Error(err))
			}
			return n, c.nameTaken()
		}
		c.log.Debug("no other proxy answers yet", zap.Error(err))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// tryJoin exchanges all facts with whoever answers at these addresses.
func (c *Cluster) tryJoin(addrs []string) (int, error) {
	if len(addrs) == 0 || c.isDropped() {
		return 0, nil
	}
	n, err := c.list.Join(addrs)
	c.look()
	return n, err
}

// others are the addresses where other members may be; unseen leaves out those at which
// somebody is known to be alive.
func (c *Cluster) others(unseen bool) []string {
	seen := map[string]bool{c.Addr(): true, c.cfg.Listen: true, c.cfg.Advertise: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	var lost []string
	for _, m := range c.members {
		if m.Presence == Alive {
			seen[m.Addr] = seen[m.Addr] || unseen
		} else {
			lost = append(lost, m.Addr)
		}
	}
	var out []string
	for _, a := range slices.Concat(c.cfg.Join, c.cfg.Remember.Peers, lost) {
		if !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}

// nameTaken tells whether another proxy has our node name. One at our own address
// is what we were before we lost our state file: the others have not noticed yet.
func (c *Cluster) nameTaken() error {
	for _, m := range c.State().Members {
		if m.Node == c.cfg.Node && m.ID != c.cfg.ID && m.Presence == Alive && m.Addr != c.Addr() {
			return fmt.Errorf("%w: '%s' is at %s", ErrNameTaken, m.Node, m.Addr)
		}
	}
	return nil
}
