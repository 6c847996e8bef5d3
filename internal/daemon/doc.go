// Package daemon is one whole amqproxy: it builds the parts in the order in which they
// depend on each other, runs them, and ends them in the opposite one. What `amqproxy run`
// has one of, `amqproxy demo` has three of.
//
// It owns the listeners and the order of start and end. It must never know signals,
// flags or the terminal, and decide nothing that a part can decide.
package daemon
