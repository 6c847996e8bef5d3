package config

import (
	"cmp"

	"amqproxy/shard"
)

// streams are what Rules get made of, while the file is being read.
type streams struct {
	global      shard.Parameters
	definitions map[string]*shard.Definition
	policies    []*policy
}

// policy is one that is being read, with its place for the checks that need the
// rest of the file.
type policy struct {
	shard.Policy
	at value
	in seen
}

func newPolicy() *policy { return &policy{Policy: shard.Policy{VHost: "/"}} }

func (p *policy) keep(_ *reader, at value, in seen) { p.at, p.in = at, in }

// check reports what only shows with the whole file read.
func (s *streams) check(r *reader) {
	lines := map[string]int{}
	for _, p := range s.policies {
		if p.in == nil {
			continue // it was no mapping, and has been reported
		}
		for _, key := range []string{"name", "pattern"} {
			if _, ok := p.in[key]; !ok {
				r.reject(p.at, "a policy needs a %s", key)
			}
		}
		if name, ok := p.in["name"]; ok && p.Name != "" {
			if line := lines[p.Name]; line > 0 {
				r.reject(name, "a second policy named %q; the first is on line %d", p.Name, line)
			}
			lines[p.Name] = cmp.Or(lines[p.Name], name.at().line)
		}
		if _, ok := s.definitions[p.Definition]; !ok && p.Definition != "" {
			r.reject(p.in["stream-definition"], "no definition is named %q%s", p.Definition, s.hint(p.Definition))
		}
	}
}

func (s *streams) hint(name string) string {
	if len(s.definitions) == 0 {
		return "; there are none (without this key the defaults hold)"
	}
	return hint(name, sorted(s.definitions))
}

// build makes the rules, and what may be shown of them.
func (s *streams) build() (*shard.Rules, Streams) {
	var policies []shard.Policy
	for _, p := range s.policies {
		policies = append(policies, p.Policy)
	}
	definitions := map[string]shard.Definition{}
	for name, d := range s.definitions {
		definitions[name] = *d
	}
	return shard.NewRules(s.global, definitions, policies),
		Streams{Global: s.global, Definitions: definitions, Policies: policies}
}
