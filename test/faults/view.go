package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"amqproxy/test/poll"
)

// These are the parts of the proxies' own views that matter here.
type streamView struct {
	Digest string
	Shards int
}

type shardView struct {
	Queue string
	Ready bool
}

type groupView struct {
	Shards []struct{ Queue, Consumer, State string }
}

// admin asks on a new connection each time, because who answers dies now and then.
var admin = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// view reads one of the lists that a proxy's admin listener shows.
func view[T any](ctx context.Context, p *proxy, name string) (rows []T, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/api/v1/"+name, nil)
	if err != nil {
		return nil, err
	}
	resp, err := admin.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return rows, json.NewDecoder(resp.Body).Decode(&rows)
}

// eventually polls check until it gives nil, and gives up with its last error.
func eventually(ctx context.Context, within time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := poll.Until(ctx, check); err != nil {
		return fmt.Errorf("after %s: %w", within, err)
	}
	return nil
}
