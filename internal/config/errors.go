package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Error is one thing that is wrong with the configuration, and where.
type Error struct {
	File   string
	Line   int // from 1
	Column int // in characters, from 1
	Text   string
	Source string // the line, with the secrets in it masked
}

// Errors is everything that is wrong with a configuration, in the file's order.
type Errors []Error

// maxErrors bounds the report, for a file that is no configuration at all.
const maxErrors = 100

func (e Errors) Error() string {
	var b strings.Builder
	for i, one := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	if len(e) == maxErrors {
		fmt.Fprintf(&b, "\n(only the first %d errors are shown)", maxErrors)
	}
	return b.String()
}

// Error gives the place and the text, and below them the line and a caret.
func (e Error) Error() string {
	head := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
	if strings.TrimSpace(e.Source) == "" {
		return head
	}
	line, caret := e.window()
	return fmt.Sprintf("%s\n%5d | %s\n      | %s^", head, e.Line, line, caret)
}

// window cuts a long line down to the part around the column, and returns the
// blanks that put the caret below the right character.
func (e Error) window() (line, indent string) {
	const width, before = 100, 60
	runes := []rune(e.Source)
	at := min(max(e.Column-1, 0), len(runes))
	if at > width-10 {
		runes = append([]rune("…"), runes[at-before:]...)
		at = before + 1
	}
	if len(runes) > width {
		runes = append(runes[:width:width], '…')
	}
	for i, c := range runes {
		if c != '\t' && unicode.IsControl(c) {
			runes[i] = unicode.ReplacementChar
		}
	}
	blanks := slices.Clone(runes[:at])
	for i, c := range blanks {
		if c != '\t' { // a tab stays one, so that both lines are as wide
			blanks[i] = ' '
		}
	}
	return string(runes), string(blanks)
}

// problem is an Error that does not have its file and line of source yet.
type problem struct {
	pos
	text string
}

// pos is a place in the file, as the YAML lexer counts.
type pos struct{ line, column int }

// locate makes the problems with src, of which there are some, into Errors.
func locate(file, src string, problems []problem) Errors {
	last := slices.MaxFunc(problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	lines := strings.SplitN(src, "\n", last.line+1)
	lines = mask(lines[:min(last.line, len(lines))])
	errs := make(Errors, 0, len(problems))
	for _, p := range problems {
		e := Error{File: file, Line: p.line, Column: p.column, Text: p.text}
		if p.line <= len(lines) {
			e.Source = lines[p.line-1]
		}
		errs = append(errs, e)
	}
	slices.SortStableFunc(errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return errs
}

// secretKey also matches what was meant as the key of a password, since a key
// with a typo is the one that gets its line printed. It does not match
// local-password-file, whose value helps and is no secret.
var (
	secretKey = regexp.MustCompile(`(?i)(?:pas|p[a-z]*w|secret)[a-z]*["']?\s*:`)
	userInfo  = regexp.MustCompile(`://[^@\s]*@`)
)

const masked = "***"

// mask hides what follows the key of a password, on its line and on the lines
// indented below it, and the user in a URL.
func mask(lines []string) []string {
	shown := make([]string, len(lines))
	key := -1 // the indent of the password's key that this line may belong to
	for i, line := range lines {
		indent := len(line) - len(strings.TrimLeft(line, " \t"))
		switch {
		case strings.TrimSpace(line) == "":
			shown[i] = line
		case key >= 0 && indent > key:
			shown[i] = line[:indent] + masked
		default:
			key = -1
			if at := secretKey.FindStringIndex(line); at != nil {
				key = indent
				if strings.TrimSpace(line[at[1]:]) != "" {
					line = line[:at[1]] + " " + masked
				}
			}
			shown[i] = userInfo.ReplaceAllString(line, "://"+masked+"@")
		}
	}
	return shown
}
