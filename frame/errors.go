package frame

import "fmt"

// Reply codes (section 1.2, and RabbitMQ's use of them).
const (
	ReplySuccess       = 200
	ContentTooLarge    = 311
	NoRoute            = 312
	ConnectionForced   = 320
	AccessRefused      = 403
	NotFound           = 404
	ResourceLocked     = 405
	PreconditionFailed = 406
	FrameError         = 501
	SyntaxError        = 502
	CommandInvalid     = 503
	ChannelErrorCode   = 504
	UnexpectedFrame    = 505
	ResourceError      = 506
	NotAllowed         = 530
	NotImplemented     = 540
	InternalError      = 541
)

var replyNames = map[uint16]string{
	ReplySuccess:       "OK",
	ContentTooLarge:    "CONTENT_TOO_LARGE",
	NoRoute:            "NO_ROUTE",
	ConnectionForced:   "CONNECTION_FORCED",
	AccessRefused:      "ACCESS_REFUSED",
	NotFound:           "NOT_FOUND",
	ResourceLocked:     "RESOURCE_LOCKED",
	PreconditionFailed: "PRECONDITION_FAILED",
	FrameError:         "FRAME_ERROR",
	SyntaxError:        "SYNTAX_ERROR",
	CommandInvalid:     "COMMAND_INVALID",
	ChannelErrorCode:   "CHANNEL_ERROR",
	UnexpectedFrame:    "UNEXPECTED_FRAME",
	ResourceError:      "RESOURCE_ERROR",
	NotAllowed:         "NOT_ALLOWED",
	NotImplemented:     "NOT_IMPLEMENTED",
	InternalError:      "INTERNAL_ERROR",
}

// ConnError ends a connection with connection.close.
type ConnError struct {
	Code   uint16
	Text   string // without the code's name, which is put before it on the wire
	Method Method // the method that caused it, 0 if none
}

func (e *ConnError) Error() string { return replyText(e.Code, e.Text) }

// ChannelError ends a channel with channel.close.
type ChannelError struct {
	Code   uint16
	Text   string // without the code's name, which is put before it on the wire
	Method Method // the method that caused it, 0 if none
}

func (e *ChannelError) Error() string { return replyText(e.Code, e.Text) }

// AppendConnClose appends the connection.close that tells a peer of e.
func AppendConnClose(dst []byte, e *ConnError) []byte {
	return appendClose(dst, 0, ConnectionClose, e.Code, e.Text, e.Method)
}

// AppendChannelClose appends the channel.close that tells a peer of e.
func AppendChannelClose(dst []byte, ch uint16, e *ChannelError) []byte {
	return appendClose(dst, ch, ChannelClose, e.Code, e.Text, e.Method)
}

func appendClose(dst []byte, ch uint16, m Method, code uint16, text string, cause Method) []byte {
	return Build(dst, ch, m).Short(code).ShortStr(replyText(code, text)).
		Short(cause.Class()).Short(cause.ID()).End()
}

// replyText has RabbitMQ's form, "NAME - text", cut to a short string.
func replyText(code uint16, text string) string {
	name, known := replyNames[code]
	if !known {
		name = fmt.Sprint(code)
	}
	if text == "" {
		return name
	}
	if text = name + " - " + text; len(text) > 255 {
		text = text[:252] + "..."
	}
	return text
}
