package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"amqproxy/shard"
)

// Config is what the proxy runs on. Printing it shows no password: only Rules
// has them, where neither fmt nor encoding/json looks.
type Config struct {
	Node            string
	Listen          string // host:port
	Broker          string // host:port
	BrokerAdvertise string // host:port; "" means Broker
	StateDir        string
	Gossip          Gossip
	Admin           Admin
	Rules           *shard.Rules
	Streams         Streams
	LoopbackUsers   []string
	Limits          Limits
	Log             Log
}

// Gossip is how proxies find each other.
type Gossip struct {
	Listen    string   // host:port; "" means that this node is alone
	Advertise string   // host:port; "" means Listen
	Join      []string // host:port of others
	Label     string
	Secret    Secret // encrypts the gossip; 16, 24 or 32 bytes, or none
}

// Secret is a key that printing shows as asterisks.
type Secret []byte

func (Secret) String() string               { return masked }
func (Secret) GoString() string             { return masked }
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

// Admin is the HTTP side of the proxy.
type Admin struct {
	Listen string // host:port; "" means off
}

// Streams is what Rules were made of. It is for
// people to read; what holds for a name is for Rules to say.
type Streams struct {
	Global      shard.Parameters
	Definitions map[string]shard.Definition
	Policies    []shard.Policy
}

// Limits bound what a peer may take or hold.
type Limits struct {
	HandshakeTimeout time.Duration
	WriteTimeout     time.Duration
	DeclareTimeout   time.Duration
	ShutdownTimeout  time.Duration
	JoinTimeout      time.Duration // how long a start looks for other proxies
	LostGrace        time.Duration // how long a silent node's shards stay in use
	MaxConnections   int           // 0 means no limit
	MaxPerAddress    int           // 0 means no limit
	ConnectionRate   int           // accepted a second; 0 means no limit
	StallTimeout     time.Duration // how long a broker may confirm nothing of what is outstanding there
	ConfirmTimeout   time.Duration // how long one publish to a stream may wait for its confirm
	WaitTimeout      time.Duration // how long one may wait for its shard
	HandoverTimeout  time.Duration // how long a client may take to settle what it has of a shard that is to be another's
	LinkHeartbeat    time.Duration // of links to brokers, in whole seconds
	LinksEach        int           // links to other brokers for one session
	MaxLinks         int           // and for all; 0 means no limit
	FrameMax         uint32
}

// Log says what is logged, and how.
type Log struct {
	Level  slog.Level
	Format string // auto, json or console
}

// Default is the configuration without a file: no policy, so no stream.
func Default() *Config {
	return &Config{
		Node:          defaultNode(),
		Listen:        "127.0.0.1:5670",
		Broker:        "127.0.0.1:5672",
		StateDir:      "/var/lib/amqproxy",
		Admin:         Admin{Listen: "127.0.0.1:15670"},
		Rules:         shard.NewRules(shard.Parameters{}, nil, nil),
		LoopbackUsers: []string{"guest"},
		Limits: Limits{
			HandshakeTimeout: 10 * time.Second,
			WriteTimeout:     30 * time.Second,
			DeclareTimeout:   5 * time.Second,
			ShutdownTimeout:  10 * time.Second,
			JoinTimeout:      5 * time.Second,
			LostGrace:        30 * time.Second,
			StallTimeout:     3 * time.Second,
			ConfirmTimeout:   30 * time.Second,
			WaitTimeout:      10 * time.Second,
			HandoverTimeout:  30 * time.Second,
			LinkHeartbeat:    5 * time.Second,
			LinksEach:        32,
			FrameMax:         131072,
		},
		Log: Log{Level: slog.LevelInfo, Format: "auto"},
	}
}

// defaultNode is the name that RabbitMQ gives its node by default.
func defaultNode() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	short, _, _ := strings.Cut(host, ".")
	return "rabbit@" + short
}

// Load reads the file at path; "" means that there is none. What is wrong inside
// the file comes back as Errors.
func Load(path string) (*Config, error) {
	if path == "" {
		return Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(path, src)
}

// Parse reads the text of a file called name. The files that it mentions are
// looked for in the directory of name.
func Parse(name string, src []byte) (*Config, error) {
	r := &reader{dir: filepath.Dir(name)}
	c, s := Default(), &streams{definitions: map[string]*shard.Definition{}}
	text := normalize(src)
	if root := r.parse(text); root != nil {
		c.keys(s).set(r, value{node: root})
		s.check(r)
	}
	if len(r.problems) > 0 {
		return nil, locate(name, text, r.problems)
	}
	c.Rules, c.Streams = s.build()
	return c, nil
}
