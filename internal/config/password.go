package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"amqproxy/shard"
)

var fromEnvironment = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)

// password is a secret in the file itself, or in the environment. Its errors are
// at the key and never quote it.
func password(dst *shard.Password) setFunc {
	return func(r *reader, v value) {
		s, ok := "", v.isString()
		if ok {
			s, _ = r.scalar(v, "")
		}
		if s == "" {
			r.failPassword(v, "must be a string that is not empty; a number needs quotes")
			return
		}
		if m := fromEnvironment.FindStringSubmatch(s); m != nil {
			s = os.Getenv(m[1])
			if s == "" {
				r.failPassword(v, "the environment variable %s is not set", m[1])
			}
		}
		*dst = shard.Password(s)
	}
}

func (r *reader) failPassword(v value, format string, args ...any) {
	r.fail(place(v.key), "%s: %s", v.path, fmt.Sprintf(format, args...))
}

// passwordFile is a secret in a file of its own, which is read right away.
func passwordFile(dst *shard.Password) setFunc {
	return func(r *reader, v value) {
		var path string
		text(&path, nonEmpty).set(r, v)
		if path == "" {
			return
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.dir, path)
		}
		s, err := readPassword(path)
		if err != nil {
			r.reject(v, "%v", err)
			return
		}
		*dst = shard.Password(s)
	}
}

// readPassword reads a regular file only: a pipe could keep it waiting forever.
func readPassword(path string) (string, error) {
	const longest = 4096
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err != nil {
		return "", err
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case s == "":
		return "", fmt.Errorf("%s is empty", path)
	case len(b) > longest:
		return "", errors.New("a password of more than 4096 bytes")
	}
	return s, nil
}

// credentials checks that a name and its password stand together: a password
// belongs to the name that it was written beside, whatever other levels say.
func credentials(r *reader, _ value, in seen) {
	paired(r, in, "local-username", "local-password")
	paired(r, in, "publish-as", "publish-password")
}

func paired(r *reader, in seen, name, password string) {
	file := password + "-file"
	atName, hasName := in[name]
	atInline, hasInline := in[password]
	atFile, hasFile := in[file]
	switch {
	case hasInline && hasFile:
		r.failKey(atFile, "%s and %s can't both be set", file, password)
	case hasInline && !hasName:
		r.failKey(atInline, "%s needs a %s beside it", password, name)
	case hasFile && !hasName:
		r.failKey(atFile, "%s needs a %s beside it", file, name)
	case hasName && !hasInline && !hasFile:
		r.failKey(atName, "%s needs a %s or %s beside it", name, password, file)
	}
}
