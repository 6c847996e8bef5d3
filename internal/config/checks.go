package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

func nonEmpty(s string) (string, error) {
	if s == "" {
		return "", errors.New("must not be empty")
	}
	return s, nil
}

// nodeName is a part of every queue name, between spaces, and those have 255
// bytes in all.
func nodeName(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("must not be empty")
	case len(s) > 200:
		return "", errors.New("must not be longer than 200 bytes")
	case strings.ContainsFunc(s, blank):
		return "", errors.New("must not contain spaces or control characters")
	}
	return s, nil
}

func blank(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }

func address(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsFunc(host, blank) {
		return "", fmt.Errorf("must be HOST:PORT, such as 127.0.0.1:5670, not %q", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("must end in a port from 0 to 65535, not %q", port)
	}
	return s, nil
}

func addressOrOff(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return address(s)
}

// broker turns the URL into host:port. It never quotes s, which may hold a
// password for all that we know.
func broker(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "amqp" || u.Hostname() == "" || s != "amqp://"+u.Host {
		return "", errors.New("must be amqp://HOST or amqp://HOST:PORT and nothing else: no TLS, user or vhost (each client brings its own)")
	}
	port := u.Port()
	if port == "" {
		port = "5672"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("must have a port from 1 to 65535, not %q", port)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

func vhost(s string) (string, error) {
	if s == "" || len(s) > 255 {
		return "", errors.New(`must be the name of a vhost, or "*" for all of them`)
	}
	return s, nil
}

// pattern is a policy's regular expression. An empty one would make streams of
// all exchanges; who wants that writes `.*`.
func pattern(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, errors.New("must not be empty; .* matches every name")
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("%w (the syntax is RE2: no lookaround, no backreferences)", err)
	}
	return re, nil
}

// queuePrefix leaves room for the names of stream and node in a queue's name,
// and stays out of the names that the broker keeps for itself.
func queuePrefix(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("must not be empty")
	case len(s) > 64:
		return "", errors.New("must not be longer than 64 bytes")
	case strings.HasPrefix(s, "amq."):
		return "", errors.New("must not begin with amq., which the broker reserves")
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", errors.New("must not contain control characters")
	}
	return s, nil
}
