package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// reader walks the YAML and collects what is wrong with it.
type reader struct {
	dir      string // of the configuration file
	problems []problem
}

// value is one value of the file, with the key that it was found under.
type value struct {
	path string // as in definitions.my_stream.hash-on
	name string // the last part of path
	key  *token.Token
	node ast.Node
}

// setter checks a value and stores it where it belongs.
type setter interface {
	set(r *reader, v value)
}

type setFunc func(r *reader, v value)

func (f setFunc) set(r *reader, v value) { f(r, v) }

// fields are the keys that a mapping may have.
type fields []field

type field struct {
	key string
	to  setter
}

// checked are fields with a rule that spans them, told which keys were there.
type checked struct {
	fields
	check func(r *reader, at value, in seen)
}

// named is a mapping whose keys are names, each of something that of sets.
type named struct {
	of func(name string) setter
}

// list is a sequence, each entry of which is something that of sets.
type list struct {
	of func() setter
}

// seen are the keys that a mapping had, with their values.
type seen map[string]value

func (fs fields) set(r *reader, v value) { fs.read(r, v) }

func (c checked) set(r *reader, v value) {
	if in := c.read(r, v); in != nil {
		c.check(r, v, in)
	}
}

// read returns nil when v is no mapping at all.
func (fs fields) read(r *reader, v value) seen {
	values, ok := r.pairs(v)
	if !ok {
		return nil
	}
	in := seen{}
	for _, v := range values {
		i := slices.IndexFunc(fs, func(f field) bool { return f.key == v.name })
		if i < 0 {
			r.failKey(v, "unknown key %q%s", v.name, fs.hint(v.name))
			continue
		}
		in[v.name] = v
		fs[i].to.set(r, v)
	}
	return in
}

func (fs fields) hint(name string) string {
	var keys []string
	for _, f := range fs {
		keys = append(keys, f.key)
	}
	return hint(name, keys)
}

func (n named) set(r *reader, v value) {
	values, _ := r.pairs(v)
	for _, v := range values {
		if v.name == "" {
			r.failKey(v, "an empty name")
			continue
		}
		n.of(v.name).set(r, v)
	}
}

func (l list) set(r *reader, v value) {
	for _, v := range r.entries(v) {
		l.of().set(r, v)
	}
}

// pairs are the values of a mapping, each key once. Nothing at all is an empty
// mapping, so that all that stands below a key can be commented out.
func (r *reader) pairs(v value) (values []value, ok bool) {
	var nodes []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.NullNode:
	case *ast.MappingNode:
		nodes = n.Values
	case *ast.MappingValueNode:
		nodes = []*ast.MappingValueNode{n}
	default:
		r.reject(v, "must be a mapping (`key: value` lines), not %s", kind(n))
		return nil, false
	}
	first := map[string]int{}
	for _, n := range nodes {
		key := n.Key.GetToken()
		one := value{path: join(v.path, key.Value), name: key.Value, key: key, node: n.Value}
		if line := first[key.Value]; line > 0 {
			r.failKey(one, "duplicate key %q, first set on line %d", key.Value, line)
			continue
		}
		first[key.Value] = key.Position.Line
		values = append(values, one)
	}
	return values, true
}

// entries are the values of a list, or of nothing.
func (r *reader) entries(v value) []value {
	var values []value
	switch n := v.node.(type) {
	case *ast.NullNode:
	case *ast.SequenceNode:
		for i, one := range n.Values {
			index := fmt.Sprintf("[%d]", i)
			values = append(values, value{path: v.path + index, name: v.name + index, node: one})
		}
	default:
		r.reject(v, "must be a list (`- value` lines), not %s", kind(n))
	}
	return values
}

// scalar is the text of a value that is not a mapping, a list or nothing; what
// says what it should have been.
func (r *reader) scalar(v value, what string) (string, bool) {
	switch n := v.node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.NullNode, *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		r.reject(v, "must be %s, not %s", what, kind(n))
		return "", false
	default:
		return n.GetToken().Value, true
	}
}

// isString tells a string from what only looks like one to a person: 1234, true.
func (v value) isString() bool {
	switch v.node.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return true
	}
	return false
}

// quote gives s, the text of v, the quotes that show what v is.
func (v value) quote(s string) string {
	if v.isString() {
		return strconv.Quote(s)
	}
	return s
}

func (v value) isQuoted() bool {
	t := v.node.GetToken().Type
	return t == token.SingleQuoteType || t == token.DoubleQuoteType
}

// at is where the value begins, or its key if there is no value.
func (v value) at() pos {
	if _, null := v.node.(*ast.NullNode); null && v.key != nil {
		return place(v.key)
	}
	return start(v.node)
}

// reject reports a value, and where it is.
func (r *reader) reject(v value, format string, args ...any) {
	r.fail(v.at(), "%s%s", prefix(v.path), fmt.Sprintf(format, args...))
}

// failKey reports a key, for which the path is the one of its parent.
func (r *reader) failKey(v value, format string, args ...any) {
	parent := strings.TrimSuffix(strings.TrimSuffix(v.path, show(v.name)), ".")
	r.fail(place(v.key), "%s%s", prefix(parent), fmt.Sprintf(format, args...))
}

func (r *reader) fail(at pos, format string, args ...any) {
	if len(r.problems) == maxErrors {
		return
	}
	const longest = 400
	text := []rune(fmt.Sprintf(format, args...))
	if len(text) > longest {
		text = append(text[:longest], '…')
	}
	r.problems = append(r.problems, problem{at, string(text)})
}

func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

func join(path, name string) string {
	if path == "" {
		return show(name)
	}
	return path + "." + show(name)
}

// show quotes a name where it would be misread in a path.
func show(name string) string {
	if name == "" || len(name) > 64 || strings.ContainsAny(name, " .:\"\n\t") {
		return fmt.Sprintf("%.64q", name)
	}
	return name
}

// hint suggests the choice that name may have been meant as, or gives them all.
func hint(name string, choices []string) string {
	if len(choices) == 0 {
		return ""
	}
	best := slices.MinFunc(choices, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
	if distance(name, best) <= max(2, len(best)/4) && distance(name, best) < len(best) {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known: " + strings.Join(choices, ", ")
}

// distance is the number of edits between two keys, blind to how their words
// are put together.
func distance(a, b string) int {
	const longest = 64
	strip := strings.NewReplacer("-", "", "_", "", " ", "")
	a, b = strings.ToLower(strip.Replace(a)), strings.ToLower(strip.Replace(b))
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
