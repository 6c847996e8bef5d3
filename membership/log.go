package membership

import (
	"errors"
	"strings"

	"go.uber.org/zap"
)

var errNotOurs = errors.New("a member of this gossip is no amqproxy")

// logWriter turns memberlist's lines, "date [LEVEL] memberlist: text", into ours.
type logWriter struct{ log *zap.Logger }

func (w *logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	_, rest, _ := strings.Cut(line, "[")
	level, text, found := strings.Cut(rest, "] ")
	if !found {
		text = line
	}
	switch level {
	case "ERR", "WARN":
		w.log.Warn(text)
	case "INFO":
		w.log.Info(text)
	default:
		w.log.Debug(text)
	}
	return len(b), nil
}
