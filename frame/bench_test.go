package frame

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// oneBuffer lends the same buffer again and again.
type oneBuffer struct{ buf []byte }

func (b *oneBuffer) Get() []byte { return b.buf }
func (*oneBuffer) Put([]byte)    {}

// wire is publishes of one size, as many as a read brings, and how many they are.
func wire(body, read int) (stream []byte, messages int) {
	for len(stream) == 0 || len(stream) < read {
		stream = Build(stream, 1, BasicPublish).Short(0).ShortStr("logs").ShortStr("key-000001").Octet(0).End()
		stream = append(stream, TypeHeader, 0, 1, 0, 0, 0, 15, 0, 60, 0, 0)
		stream = binary.BigEndian.AppendUint64(stream, uint64(body))
		stream = append(stream, FlagDeliveryMode>>8, 0, 1, endOctet)
		at := len(stream)
		stream = append(stream, TypeBody, 0, 1, 0, 0, 0, 0)
		stream = finish(append(stream, make([]byte, body)...), at)
		messages++
	}
	return stream, messages
}

// BenchmarkReader is the cost of cutting a read into frames, without the read.
func BenchmarkReader(b *testing.B) {
	for _, body := range []int{16, 100, 1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%d-octets", body), func(b *testing.B) {
			stream, messages := wire(body, 128<<10)
			rd := NewReader(&oneBuffer{stream}, 131072)
			b.ReportAllocs()
			b.SetBytes(int64(len(stream)))
			for b.Loop() {
				rd.Filled(len(rd.Space())) // the stream is in the buffer already
				for range 3 * messages {
					if f, err := rd.Next(); f == nil {
						b.Fatal("no frame", err)
					}
				}
				rd.Release()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/message")
		})
	}
}
