// nats.go through weir, while its session is moved from server to server: subscribes, works for a queue, asks,
// publishes to JetStream and reads from it, until it is told to end. Prints READY, and at the end what it has had,
// as JSON. Usage: stay nats://HOST:PORT
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type report struct {
	Client      string `json:"client"`
	Disconnects int64  `json:"disconnects"`
	All         []int  `json:"all"`
	Jobs        []int  `json:"jobs"`
	Asked       int    `json:"asked"`
	Unanswered  int    `json:"unanswered"`
	Published   int64  `json:"published"`
	Unconfirmed int    `json:"unconfirmed"`
	Read        []int  `json:"read"`
}

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "nats.go: %s: %v\n", what, err)
		os.Exit(1)
	}
}

func number(data []byte) int {
	n, err := strconv.Atoi(string(data))
	check("a number", err)
	return n
}

func main() {
	time.AfterFunc(170*time.Second, func() { check("the whole", context.DeadlineExceeded) })
	var (
		told        = report{Client: "nats.go " + nats.Version, All: []int{}, Jobs: []int{}, Read: []int{}}
		read        = map[int]bool{}
		lock        sync.Mutex
		loops       sync.WaitGroup
		disconnects atomic.Int64
		published   atomic.Int64
		ended       atomic.Bool
		end         = make(chan struct{})
	)
	client, err := nats.Connect(os.Args[1], nats.Name("stay-go"), nats.Timeout(20*time.Second),
		nats.DisconnectErrHandler(func(*nats.Conn, error) {
			if !ended.Load() {
				disconnects.Add(1)
			}
		}))
	check("connect", err)
	_, err = client.Subscribe("moves.all", func(message *nats.Msg) {
		if string(message.Data) == "end" {
			if !ended.Swap(true) {
				close(end)
			}
			return
		}
		lock.Lock()
		defer lock.Unlock()
		told.All = append(told.All, number(message.Data))
	})
	check("subscribe", err)
	_, err = client.QueueSubscribe("moves.jobs", "workers", func(message *nats.Msg) {
		lock.Lock()
		defer lock.Unlock()
		told.Jobs = append(told.Jobs, number(message.Data))
	})
	check("subscribe", err)
	check("flush", client.Flush())
	js, err := jetstream.New(client)
	check("jetstream", err)

	loops.Go(func() {
		for !ended.Load() {
			told.Asked++
			answer, err := client.Request("moves.echo", []byte("go"), 10*time.Second)
			if err != nil || string(answer.Data) != "go" {
				told.Unanswered++
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	loops.Go(func() {
		for !ended.Load() {
			text := strconv.FormatInt(published.Load(), 10)
			bounded, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			// JetStream drops what comes twice under one id, where an acknowledgement was lost.
			_, err := js.Publish(bounded, "moves.js.go", []byte(text), jetstream.WithMsgID("go"+text))
			cancel()
			if err == nil {
				published.Add(1)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	loops.Go(func() {
		var reader jetstream.Consumer
		for reader == nil {
			bounded, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			config := jetstream.ConsumerConfig{Durable: "go", FilterSubject: "moves.js.go", AckPolicy: jetstream.AckExplicitPolicy}
			reader, _ = js.CreateOrUpdateConsumer(bounded, "MOVES", config)
			cancel()
		}
		for !ended.Load() || int64(len(read)) < published.Load() {
			batch, err := reader.Fetch(10, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			for message := range batch.Messages() {
				lock.Lock()
				read[number(message.Data())] = true
				lock.Unlock()
				bounded, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				// A consumer's leader may be killed between what it stores and what it answers.
				if message.DoubleAck(bounded) != nil {
					told.Unconfirmed++
				}
				cancel()
			}
		}
	})
	fmt.Println("READY")
	<-end
	// The last jobs are on their way.
	time.Sleep(time.Second)
	done := make(chan struct{})
	go func() {
		loops.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
	}
	lock.Lock()
	told.Read = slices.Sorted(maps.Keys(read))
	told.Disconnects, told.Published = disconnects.Load(), published.Load()
	text, err := json.Marshal(told)
	check("report", err)
	fmt.Println(string(text))
	client.Close()
}
