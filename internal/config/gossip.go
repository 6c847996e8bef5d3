package config

import (
	"encoding/base64"
	"errors"
	"slices"

	"amqproxy/shard"
)

// needsListen checks that a node that is to find others can be found itself.
func needsListen(r *reader, _ value, in seen) {
	_, has := in["listen"]
	for _, key := range []string{"advertise", "join", "secret-file", "label"} {
		if v, set := in[key]; set && !has {
			r.failKey(v, "%s needs a listen beside it", key)
		}
	}
}

// secretFile is a key in a file of its own: the base64 of 16, 24 or 32 bytes, as
// `openssl rand -base64 32` makes it.
func secretFile(dst *Secret) setFunc {
	return func(r *reader, v value) {
		var text shard.Password
		passwordFile(&text).set(r, v)
		if text == "" {
			return
		}
		key, err := parseSecret(string(text))
		if err != nil {
			r.reject(v, "%v", err)
			return
		}
		*dst = key
	}
}

func parseSecret(s string) (Secret, error) {
	key, err := base64.StdEncoding.DecodeString(s)
	if err != nil || !slices.Contains([]int{16, 24, 32}, len(key)) {
		return nil, errors.New("must hold the base64 of 16, 24 or 32 bytes, such as `openssl rand -base64 32` makes")
	}
	return key, nil
}
