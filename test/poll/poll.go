// Package poll is how tests and the programs beside them wait: for a condition, with a
// bound, never for a time.
package poll

import (
	"context"
	"time"
)

const (
	shortest = 20 * time.Millisecond  // between two looks
	longest  = 250 * time.Millisecond // the same
)

// Until looks again and again until check gives nil, and then gives nil. When ctx is done
// first it gives what check said last.
//
// The pauses grow with the time that has passed, to about a tenth of it: who waits long
// costs what is waited for little, and learns of it almost as soon.
func Until(ctx context.Context, check func() error) error {
	began := time.Now()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(min(max(time.Since(began)/10, shortest), longest)):
		case <-ctx.Done():
			return err
		}
	}
}
