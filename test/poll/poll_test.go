package poll

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, lasts := range []time.Duration{0, time.Second, time.Minute} {
			began, looks := time.Now(), 0
			err := Until(t.Context(), func() error {
				if looks++; time.Since(began) < lasts {
					return errors.New("not yet")
				}
				return nil
			})
			if late := time.Since(began) - lasts; err != nil || late > min(lasts/10+shortest, longest) {
				t.Errorf("what takes %s was noticed %s late (%v)", lasts, late, err)
			}
			if lasts == time.Minute && looks > 300 {
				t.Errorf("%d looks in a minute", looks)
			}
		}
	})
}

func TestUntilGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began, never := time.Now(), errors.New("never")
		if err := Until(ctx, func() error { return never }); err != never {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("gave up after %s", took)
		}
	})
}
