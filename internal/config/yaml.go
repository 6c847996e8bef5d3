package config

import (
	"bytes"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What one file may be. The YAML parser needs time with the square of the
// tokens; so many hold some 2500 policies with as many definitions.
const (
	maxSize   = 1 << 20
	maxTokens = 50_000
)

// normalize gives the lexer the one kind of line ends that it counts well.
func normalize(src []byte) string {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(src))
}

// parse returns what the one YAML document in src holds; nil when it is empty or
// when there are problems.
func (r *reader) parse(src string) (root ast.Node) {
	if !r.legible(src) {
		return nil
	}
	// The library has a history of panics on malformed input; for an operator
	// that is a syntax error like any other.
	defer func() {
		if e := recover(); e != nil {
			root = nil
			r.fail(pos{1, 1}, "not YAML: the parser gave up: %v", e)
		}
	}()
	tokens := lexer.Tokenize(src)
	if !r.plain(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.syntax(err)
		return nil
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil
	}
	return file.Docs[0].Body
}

// legible reports what no YAML file may hold: too much, or what is not text.
func (r *reader) legible(src string) bool {
	if len(src) > maxSize {
		r.fail(pos{1, 1}, "the file is larger than %d bytes", maxSize)
		return false
	}
	at := pos{1, 1}
	for i, c := range src {
		switch {
		case c == '\n':
			at = pos{at.line + 1, 1}
			continue
		case c == utf8.RuneError && !strings.HasPrefix(src[i:], "\ufffd"):
			r.fail(at, "not UTF-8 text")
			return false
		case c != '\t' && unicode.IsControl(c):
			r.fail(at, "the control character %U is not allowed here", c)
			return false
		}
		at.column++
	}
	return true
}

// plain reports the parts of YAML that a configuration has no use for, and that
// would make the same text mean different things to different readers.
func (r *reader) plain(tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		r.fail(pos{1, 1}, "the file has more than %d YAML tokens", maxTokens)
		return false
	}
	started, before := false, len(r.problems)
	for _, t := range tokens {
		if text := unwanted(t, started); text != "" {
			r.fail(place(t), "%s", text)
		}
		started = started || t.Type != token.CommentType
	}
	return len(r.problems) == before
}

// unwanted says what is wrong with a token, if anything; started means that the
// document has begun before it.
func unwanted(t *token.Token, started bool) string {
	switch t.Type {
	case token.AnchorType, token.AliasType:
		return "anchors and aliases are not supported; a value that begins with & or * needs quotes"
	case token.TagType:
		return "tags are not supported; a value that begins with ! needs quotes"
	case token.DirectiveType:
		return "directives are not supported; a value that begins with % needs quotes"
	case token.MergeKeyType:
		return "merge keys are not supported"
	case token.MappingKeyType:
		return "explicit keys are not supported; a key that begins with ? needs quotes"
	case token.DocumentHeaderType:
		if started {
			return "a second YAML document: there can be only one in the file"
		}
	}
	return ""
}

// syntax reports the error that the parser stopped at.
func (r *reader) syntax(err error) {
	var e interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &e) {
		r.fail(place(e.GetToken()), "not YAML: %s", strings.ReplaceAll(e.GetMessage(), "\t", `\t`))
		return
	}
	r.fail(pos{1, 1}, "not YAML: %v", err)
}

func place(t *token.Token) pos {
	if t == nil || t.Position == nil {
		return pos{1, 1}
	}
	return pos{max(t.Position.Line, 1), max(t.Position.Column, 1)} // block texts have column 0
}

// start is where a node begins. A block mapping's own token is its first colon,
// hence the detour through the key.
func start(n ast.Node) pos {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return place(n.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return place(n.Key.GetToken())
	}
	return place(n.GetToken())
}

// kind names what a node is, for an error that says what it should have been.
// The value itself is in the line that the error shows, masked where it must be.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	}
	return "a single value"
}
