package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// dougStore is a facade of DougDB, asked over HTTP as any user does it. It is here so that open loads, kills of leaders and
// watches are put on all systems by one generator; closed loads come from wrk.
type dougStore struct {
	base   string
	client *http.Client
	// Watches last, so they have connections of their own and no time limit.
	watcher *http.Client
}

// refusal is an answer that is not a 2xx.
type refusal struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Outcome string `json:"outcome"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.Status, r.Code) }

func connectDoug(chosen settings) (store, error) {
	most := max(64, chosen.workers)
	plain := &http.Transport{
		MaxConnsPerHost: most, MaxIdleConnsPerHost: most, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	return &dougStore{
		base: "http://" + chosen.endpoints[0], client: &http.Client{Transport: plain},
		watcher: &http.Client{Transport: &http.Transport{DisableCompression: true}},
	}, nil
}

func (s *dougStore) ask(ctx context.Context, method string, path string, body string) error {
	request, err := http.NewRequestWithContext(ctx, method, s.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 == 2 {
		_, err = io.Copy(io.Discard, answer.Body)
		return err
	}
	return refused(answer)
}

// refused reads what a problem document says; its status alone counts when the body is none.
func refused(answer *http.Response) error {
	found := &refusal{}
	_ = json.NewDecoder(io.LimitReader(answer.Body, 1<<16)).Decode(found)
	found.Status = answer.StatusCode
	return found
}

func (s *dougStore) put(ctx context.Context, key string, value string) error {
	return s.ask(ctx, http.MethodPut, "/v1/kv/"+key, value)
}

func (s *dougStore) get(ctx context.Context, key string, stale bool) error {
	if stale {
		key += "?consistency=eventual"
	}
	return s.ask(ctx, http.MethodGet, "/v1/kv/"+key, "")
}

func (s *dougStore) batch(ctx context.Context, keys []string, value string) error {
	return errors.New("batches of DougDB are asked for by wrk")
}

func (s *dougStore) scan(ctx context.Context, start string, entries int) error {
	return errors.New("scans of DougDB are asked for by wrk")
}

func (s *dougStore) leader(ctx context.Context) (int, error) {
	return 0, errors.New("bench/systems.py asks for the leader of DougDB")
}

// certain is whether the request cannot have changed anything: no connection, or an answer that says so.
func (s *dougStore) certain(err error) bool {
	var told *refusal
	if errors.As(err, &told) {
		return told.Outcome != "unknown" && told.Status < 500 || told.Outcome == "not_applied"
	}
	var broken *net.OpError
	return errors.As(err, &broken) && broken.Op == "dial"
}

func (s *dougStore) watch(ctx context.Context, key string, begun func(), told func(value string)) error {
	target := s.base + "/v1/watch?key=" + url.QueryEscape(key)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	answer, err := s.watcher.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refused(answer)
	}
	event, started := "", false
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		line := lines.Text()
		if name, is := strings.CutPrefix(line, "event: "); is {
			event = name
		}
		data, is := strings.CutPrefix(line, "data: ")
		switch {
		case !is:
		case event == "progress" && !started:
			started = true
			begun()
		case event == "put":
			var change struct {
				Value string `json:"value"`
			}
			if err := json.Unmarshal([]byte(data), &change); err != nil {
				return err
			}
			told(change.Value)
		}
	}
	return errors.New("the watch has ended")
}
