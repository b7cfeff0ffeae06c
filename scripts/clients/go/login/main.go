// nats.go through weir, with every way to log in: connect, publish, request, reconnect. Usage: login CELLS.json
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

type cell struct {
	Name, Url, Kind, User, Password, Token, Jwt string
	SeedFile                                    string `json:"seed_file"`
	CredsFile                                   string `json:"creds_file"`
	CaFile                                      string `json:"ca_file"`
	First                                       string
}

func (c cell) security() nats.Option {
	return func(o *nats.Options) error {
		if c.CaFile == "" {
			return nil
		}
		o.TLSHandshakeFirst = c.First != ""
		return nats.RootCAs(c.CaFile)(o)
	}
}

func (c cell) credentials() (nats.Option, error) {
	switch c.Kind {
	case "user":
		return nats.UserInfo(c.User, c.Password), nil
	case "token":
		return nats.Token(c.Token), nil
	case "nkey":
		return nats.NkeyOptionFromSeed(c.SeedFile)
	case "creds":
		return nats.UserCredentials(c.CredsFile), nil
	case "bearer":
		jwt := func() (string, error) { return c.Jwt, nil }
		return nats.UserJWT(jwt, func([]byte) ([]byte, error) { return nil, nil }), nil
	}
	return func(*nats.Options) error { return nil }, nil
}

// A message and a request, each answered by the client itself.
func (c cell) use(nc *nats.Conn) error {
	subject := "login.go." + c.Name
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(m.Data) })
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := nc.Publish(subject, []byte("nobody asks")); err != nil {
		return err
	}
	reply, err := nc.Request(subject, []byte("who"), 20*time.Second)
	if err == nil && string(reply.Data) != "who" {
		err = fmt.Errorf("reply %q", reply.Data)
	}
	return err
}

func (c cell) run(ready func(), gone <-chan struct{}) error {
	var once sync.Once
	defer once.Do(ready)
	credentials, err := c.credentials()
	if err != nil {
		return err
	}
	again := make(chan struct{}, 1)
	back := nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} })
	nc, err := nats.Connect(c.Url, credentials, c.security(), back, nats.MaxReconnects(60), nats.Timeout(20*time.Second))
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := c.use(nc); err != nil {
		return err
	}
	once.Do(ready)
	<-gone
	select {
	case <-again:
	case <-time.After(time.Minute):
		return fmt.Errorf("no reconnect: %w", nc.LastError())
	}
	return c.use(nc)
}

func main() {
	time.AfterFunc(150*time.Second, func() { os.Exit(1) })
	text, err := os.ReadFile(os.Args[1])
	var cells []cell
	if err == nil {
		err = json.Unmarshal(text, &cells)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var connecting, all sync.WaitGroup
	connecting.Add(len(cells))
	gone := make(chan struct{})
	for _, c := range cells {
		all.Go(func() {
			if err := c.run(connecting.Done, gone); err != nil {
				fmt.Printf("%s: FAILED %v\n", c.Name, err)
			} else {
				fmt.Printf("%s: OK\n", c.Name)
			}
		})
	}
	connecting.Wait()
	fmt.Println("READY")
	close(gone)
	all.Wait()
}
