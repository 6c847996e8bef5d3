package frame

import "strings"

// Method is a class id in the upper and a method id in the lower 16 bits, as
// they lie on the wire.
type Method uint32

// Class is the class id.
func (m Method) Class() uint16 { return uint16(m >> 16) }

// ID is the method id within its class.
func (m Method) ID() uint16 { return uint16(m) }

// HasContent tells whether a header and body frames follow the method.
func (m Method) HasContent() bool {
	return m == BasicPublish || m == BasicDeliver || m == BasicGetOk || m == BasicReturn
}

// String is the method's name as the specification writes it, "basic.publish".
func (m Method) String() string {
	if s, known := methodSpecs[m]; known {
		return s.name
	}
	return "unknown method"
}

// The methods of AMQP 0-9-1 and of RabbitMQ's extensions.
const (
	ConnectionStart          Method = 10<<16 | 10
	ConnectionStartOk        Method = 10<<16 | 11
	ConnectionSecure         Method = 10<<16 | 20
	ConnectionSecureOk       Method = 10<<16 | 21
	ConnectionTune           Method = 10<<16 | 30
	ConnectionTuneOk         Method = 10<<16 | 31
	ConnectionOpen           Method = 10<<16 | 40
	ConnectionOpenOk         Method = 10<<16 | 41
	ConnectionClose          Method = 10<<16 | 50
	ConnectionCloseOk        Method = 10<<16 | 51
	ConnectionBlocked        Method = 10<<16 | 60
	ConnectionUnblocked      Method = 10<<16 | 61
	ConnectionUpdateSecret   Method = 10<<16 | 70
	ConnectionUpdateSecretOk Method = 10<<16 | 71
	ChannelOpen              Method = 20<<16 | 10
	ChannelOpenOk            Method = 20<<16 | 11
	ChannelFlow              Method = 20<<16 | 20
	ChannelFlowOk            Method = 20<<16 | 21
	ChannelClose             Method = 20<<16 | 40
	ChannelCloseOk           Method = 20<<16 | 41
	AccessRequest            Method = 30<<16 | 10
	AccessRequestOk          Method = 30<<16 | 11
	ExchangeDeclare          Method = 40<<16 | 10
	ExchangeDeclareOk        Method = 40<<16 | 11
	ExchangeDelete           Method = 40<<16 | 20
	ExchangeDeleteOk         Method = 40<<16 | 21
	ExchangeBind             Method = 40<<16 | 30
	ExchangeBindOk           Method = 40<<16 | 31
	ExchangeUnbind           Method = 40<<16 | 40
	ExchangeUnbindOk         Method = 40<<16 | 51
	QueueDeclare             Method = 50<<16 | 10
	QueueDeclareOk           Method = 50<<16 | 11
	QueueBind                Method = 50<<16 | 20
	QueueBindOk              Method = 50<<16 | 21
	QueuePurge               Method = 50<<16 | 30
	QueuePurgeOk             Method = 50<<16 | 31
	QueueDelete              Method = 50<<16 | 40
	QueueDeleteOk            Method = 50<<16 | 41
	QueueUnbind              Method = 50<<16 | 50
	QueueUnbindOk            Method = 50<<16 | 51
	BasicQos                 Method = 60<<16 | 10
	BasicQosOk               Method = 60<<16 | 11
	BasicConsume             Method = 60<<16 | 20
	BasicConsumeOk           Method = 60<<16 | 21
	BasicCancel              Method = 60<<16 | 30
	BasicCancelOk            Method = 60<<16 | 31
	BasicPublish             Method = 60<<16 | 40
	BasicReturn              Method = 60<<16 | 50
	BasicDeliver             Method = 60<<16 | 60
	BasicGet                 Method = 60<<16 | 70
	BasicGetOk               Method = 60<<16 | 71
	BasicGetEmpty            Method = 60<<16 | 72
	BasicAck                 Method = 60<<16 | 80
	BasicReject              Method = 60<<16 | 90
	BasicRecoverAsync        Method = 60<<16 | 100
	BasicRecover             Method = 60<<16 | 110
	BasicRecoverOk           Method = 60<<16 | 111
	BasicNack                Method = 60<<16 | 120
	ConfirmSelect            Method = 85<<16 | 10
	ConfirmSelectOk          Method = 85<<16 | 11
	TxSelect                 Method = 90<<16 | 10
	TxSelectOk               Method = 90<<16 | 11
	TxCommit                 Method = 90<<16 | 20
	TxCommitOk               Method = 90<<16 | 21
	TxRollback               Method = 90<<16 | 30
	TxRollbackOk             Method = 90<<16 | 31
)

// methodSpec describes a method for traces and for tests, which write methods as
// text. The data path reads what it needs with Args.
type methodSpec struct {
	name   string
	fields []fieldSpec
}

// fieldSpec is a field's name and its kind: o octet, s short, l long,
// L longlong, S short string, X long string, T table, b bit.
type fieldSpec struct {
	name string
	kind byte
}

var methodSpecs, methodsByName = readMethods()

func readMethods() (map[Method]methodSpec, map[string]Method) {
	specs, names := map[Method]methodSpec{}, map[string]Method{}
	for m, text := range methodTexts {
		words := strings.Fields(text)
		spec := methodSpec{name: words[0]}
		for _, w := range words[1:] {
			name, kind, _ := strings.Cut(w, ":")
			spec.fields = append(spec.fields, fieldSpec{name, kind[0]})
		}
		specs[m], names[spec.name] = spec, m
	}
	return specs, names
}

const (
	closeFields = " reply-code:s reply-text:S class-id:s method-id:s"
	tuneFields  = " channel-max:s frame-max:l heartbeat:s"
	ebindFields = " reserved-1:s destination:S source:S routing-key:S nowait:b arguments:T"
)

var methodTexts = map[Method]string{
	ConnectionStart:          "connection.start version-major:o version-minor:o server-properties:T mechanisms:X locales:X",
	ConnectionStartOk:        "connection.start-ok client-properties:T mechanism:S response:X locale:S",
	ConnectionSecure:         "connection.secure challenge:X",
	ConnectionSecureOk:       "connection.secure-ok response:X",
	ConnectionTune:           "connection.tune" + tuneFields,
	ConnectionTuneOk:         "connection.tune-ok" + tuneFields,
	ConnectionOpen:           "connection.open virtual-host:S reserved-1:S reserved-2:b",
	ConnectionOpenOk:         "connection.open-ok reserved-1:S",
	ConnectionClose:          "connection.close" + closeFields,
	ConnectionCloseOk:        "connection.close-ok",
	ConnectionBlocked:        "connection.blocked reason:S",
	ConnectionUnblocked:      "connection.unblocked",
	ConnectionUpdateSecret:   "connection.update-secret new-secret:X reason:S",
	ConnectionUpdateSecretOk: "connection.update-secret-ok",
	ChannelOpen:              "channel.open reserved-1:S",
	ChannelOpenOk:            "channel.open-ok reserved-1:X",
	ChannelFlow:              "channel.flow active:b",
	ChannelFlowOk:            "channel.flow-ok active:b",
	ChannelClose:             "channel.close" + closeFields,
	ChannelCloseOk:           "channel.close-ok",
	AccessRequest:            "access.request realm:S exclusive:b passive:b active:b write:b read:b",
	AccessRequestOk:          "access.request-ok ticket:s",
	ExchangeDeclare:          "exchange.declare reserved-1:s exchange:S type:S passive:b durable:b auto-delete:b internal:b nowait:b arguments:T",
	ExchangeDeclareOk:        "exchange.declare-ok",
	ExchangeDelete:           "exchange.delete reserved-1:s exchange:S if-unused:b nowait:b",
	ExchangeDeleteOk:         "exchange.delete-ok",
	ExchangeBind:             "exchange.bind" + ebindFields,
	ExchangeBindOk:           "exchange.bind-ok",
	ExchangeUnbind:           "exchange.unbind" + ebindFields,
	ExchangeUnbindOk:         "exchange.unbind-ok",
	QueueDeclare:             "queue.declare reserved-1:s queue:S passive:b durable:b exclusive:b auto-delete:b nowait:b arguments:T",
	QueueDeclareOk:           "queue.declare-ok queue:S message-count:l consumer-count:l",
	QueueBind:                "queue.bind reserved-1:s queue:S exchange:S routing-key:S nowait:b arguments:T",
	QueueBindOk:              "queue.bind-ok",
	QueuePurge:               "queue.purge reserved-1:s queue:S nowait:b",
	QueuePurgeOk:             "queue.purge-ok message-count:l",
	QueueDelete:              "queue.delete reserved-1:s queue:S if-unused:b if-empty:b nowait:b",
	QueueDeleteOk:            "queue.delete-ok message-count:l",
	QueueUnbind:              "queue.unbind reserved-1:s queue:S exchange:S routing-key:S arguments:T",
	QueueUnbindOk:            "queue.unbind-ok",
	BasicQos:                 "basic.qos prefetch-size:l prefetch-count:s global:b",
	BasicQosOk:               "basic.qos-ok",
	BasicConsume:             "basic.consume reserved-1:s queue:S consumer-tag:S no-local:b no-ack:b exclusive:b nowait:b arguments:T",
	BasicConsumeOk:           "basic.consume-ok consumer-tag:S",
	BasicCancel:              "basic.cancel consumer-tag:S nowait:b",
	BasicCancelOk:            "basic.cancel-ok consumer-tag:S",
	BasicPublish:             "basic.publish reserved-1:s exchange:S routing-key:S mandatory:b immediate:b",
	BasicReturn:              "basic.return reply-code:s reply-text:S exchange:S routing-key:S",
	BasicDeliver:             "basic.deliver consumer-tag:S delivery-tag:L redelivered:b exchange:S routing-key:S",
	BasicGet:                 "basic.get reserved-1:s queue:S no-ack:b",
	BasicGetOk:               "basic.get-ok delivery-tag:L redelivered:b exchange:S routing-key:S message-count:l",
	BasicGetEmpty:            "basic.get-empty reserved-1:S",
	BasicAck:                 "basic.ack delivery-tag:L multiple:b",
	BasicReject:              "basic.reject delivery-tag:L requeue:b",
	BasicRecoverAsync:        "basic.recover-async requeue:b",
	BasicRecover:             "basic.recover requeue:b",
	BasicRecoverOk:           "basic.recover-ok",
	BasicNack:                "basic.nack delivery-tag:L multiple:b requeue:b",
	ConfirmSelect:            "confirm.select nowait:b",
	ConfirmSelectOk:          "confirm.select-ok",
	TxSelect:                 "tx.select",
	TxSelectOk:               "tx.select-ok",
	TxCommit:                 "tx.commit",
	TxCommitOk:               "tx.commit-ok",
	TxRollback:               "tx.rollback",
	TxRollbackOk:             "tx.rollback-ok",
}
