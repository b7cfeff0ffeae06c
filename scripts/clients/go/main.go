// nats.go through weir: connect, publish, subscribe, request, JetStream. Usage: client nats://HOST:PORT
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "nats.go: %s: %v\n", what, err)
		os.Exit(1)
	}
}

func expect(ok bool, format string, args ...any) {
	if !ok {
		check("unexpected", fmt.Errorf(format, args...))
	}
}

func payload(i int) []byte { return bytes.Repeat([]byte(strconv.Itoa(i)), 1+i*50) }

// Longer than the default of 2 s, which a busy machine may exceed and which is not what is tested.
var patient = nats.Timeout(20 * time.Second)

func main() {
	time.AfterFunc(2*time.Minute, func() { check("the whole", context.DeadlineExceeded) })
	ours, err := nats.Connect(os.Args[1], nats.Name("matrix-go-a"), patient)
	check("connect", err)
	theirs, err := nats.Connect(os.Args[1], nats.Name("matrix-go-b"), patient)
	check("connect", err)
	expect(len(ours.DiscoveredServers()) == 0, "weir must not lead past itself: %v", ours.DiscoveredServers())

	numbers, err := ours.SubscribeSync("matrix.go.numbers")
	check("subscribe", err)
	_, err = ours.Subscribe("matrix.go.upper", func(m *nats.Msg) { _ = m.Respond(bytes.ToUpper(m.Data)) })
	check("subscribe", err)
	check("flush", ours.Flush())

	// Once the other client's request is answered, all servers know both subscriptions.
	var reply *nats.Msg
	for tries := 0; ; tries++ {
		if reply, err = theirs.Request("matrix.go.upper", []byte("request"), 5*time.Second); err == nil || tries == 100 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	check("request", err)
	expect(string(reply.Data) == "REQUEST", "reply %q", reply.Data)

	for i := range 100 {
		check("publish", theirs.Publish("matrix.go.numbers", payload(i)))
	}
	for i := range 100 {
		m, err := numbers.NextMsg(30 * time.Second)
		check("next message", err)
		expect(bytes.Equal(m.Data, payload(i)), "message %d", i)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	js, err := jetstream.New(ours)
	check("jetstream", err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "MATRIX_GO", Subjects: []string{"matrix.go.js.*"}})
	check("create stream", err)
	for i := range 50 {
		ack, err := js.Publish(ctx, "matrix.go.js."+strconv.Itoa(i), []byte(strconv.Itoa(i)))
		check("jetstream publish", err)
		expect(ack.Sequence == uint64(i+1), "sequence %d for message %d", ack.Sequence, i)
	}
	other, err := jetstream.New(theirs)
	check("jetstream", err)
	reader, err := other.CreateConsumer(ctx, "MATRIX_GO", jetstream.ConsumerConfig{Durable: "reader", AckPolicy: jetstream.AckExplicitPolicy})
	check("create consumer", err)
	for seen := 0; seen < 50; {
		batch, err := reader.Fetch(50-seen, jetstream.FetchMaxWait(5*time.Second))
		check("fetch", err)
		for m := range batch.Messages() {
			expect(string(m.Data()) == strconv.Itoa(seen), "stream message %d: %q", seen, m.Data())
			check("ack", m.Ack())
			seen++
		}
		expect(ctx.Err() == nil, "only %d of 50 messages came", seen)
	}
	check("delete stream", js.DeleteStream(ctx, "MATRIX_GO"))
	check("drain", theirs.Drain())
	check("drain", ours.Drain())
	fmt.Printf("nats.go %s: OK\n", strings.TrimPrefix(nats.Version, "v"))
}
