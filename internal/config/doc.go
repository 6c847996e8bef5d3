// Package config turns the one YAML file into a Config that has been checked.
//
// It owns the keys, their defaults, and the words in which an operator is told
// what is wrong: everything at once, each with its line and a caret.
//
// It must never accept what it does not understand, change after it has been
// read, or let a password out of Config.Rules: not in a printed Config, nor in
// the line that an error quotes.
//
// keys.go is the table of all keys. A new key is one line there, a field in
// Config with its default, and a line in config.example.yaml; a new section is a
// `fields` of such lines.
package config
