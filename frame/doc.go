// Package frame is the wire of AMQP 0-9-1 and nothing else: frames as the bytes
// they are, a Reader that cuts a byte stream into them, the arguments of
// methods, field tables and content headers, and the two errors of the protocol.
//
//	octet  short    long  size octets  octet
//	+------+---------+------+---------+------+
//	| type | channel | size | payload | 0xCE |
//	+------+---------+------+---------+------+
//
// What the package owns: where a field lies, and how one is written. What it
// must never do: I/O, copying in order to read, or decoding in order to
// forward. Everything that is read out of a frame (strings, tables, payloads) is
// a view into the Reader's buffer and holds until the Reader's next Space or
// Release; who keeps it longer copies it. Nothing here recurses into nested
// tables, so depth is no danger.
//
// Section numbers in comments are those of the AMQP 0-9-1 specification.
package frame
