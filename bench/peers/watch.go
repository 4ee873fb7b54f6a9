package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const watchedKey = "watched/one"

// audience is all watchers of one key, whose values begin with a number that grows.
type audience struct {
	begun chan error
	// told is how many events all watchers together have read, skipped ones left out.
	told atomic.Int64
	// wanted is the event that is waited for, and missing how many watchers have not read it yet.
	wanted  atomic.Int64
	missing atomic.Int64
	reached chan struct{}
}

// join begins one watch, which lasts until the context ends.
func (a *audience) join(ctx context.Context, target store) {
	last := int64(-1)
	err := target.watch(ctx, watchedKey, func() { a.begun <- nil }, func(value string) {
		digits, _, _ := strings.Cut(value, " ")
		number, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || number <= last {
			return
		}
		a.told.Add(1)
		wanted := a.wanted.Load()
		if last < wanted && number >= wanted && a.missing.Add(-1) == 0 {
			a.reached <- struct{}{}
		}
		last = number
	})
	if ctx.Err() == nil {
		a.begun <- err
	}
}

// expect sets the event that all watchers are to read. Requires: the one before has been read by all.
func (a *audience) expect(number int64, watchers int) {
	a.missing.Store(int64(watchers))
	a.wanted.Store(number)
}

// wait returns once every watcher has read the expected event.
func (a *audience) wait() error {
	select {
	case <-a.reached:
		return nil
	case err := <-a.begun:
		return fmt.Errorf("a watch has ended: %w", err)
	case <-time.After(60 * time.Second):
		return fmt.Errorf("%d watchers have not read the event after 60 s", a.missing.Load())
	}
}

// watchLoad measures how soon all watchers of a key have read an event, and how many events a second they read when puts
// follow each other.
func watchLoad(arguments []string) {
	chosen := parse(arguments)
	target, err := connect(chosen)
	if err != nil {
		fail(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	all := &audience{begun: make(chan error, chosen.watchers), reached: make(chan struct{}, 1)}
	all.wanted.Store(1 << 62)
	for joined := range chosen.watchers {
		go all.join(ctx, target)
		// Not more than a hundred at a time are on their way.
		if joined >= 100 {
			if err := all.oneHasBegun(); err != nil {
				fail(err)
			}
		}
	}
	for range min(100, chosen.watchers) {
		if err := all.oneHasBegun(); err != nil {
			fail(err)
		}
	}
	var took []float64
	number := int64(1)
	put := func() error {
		limited, stop := context.WithTimeout(ctx, chosen.timeout)
		defer stop()
		head := fmt.Sprintf("%d ", number)
		return target.put(limited, watchedKey, head+strings.Repeat("v", max(0, chosen.valueSize-len(head))))
	}
	for range chosen.events {
		all.expect(number, chosen.watchers)
		began := time.Now()
		if err := put(); err != nil {
			fail(err)
		}
		if err := all.wait(); err != nil {
			fail(err)
		}
		took = append(took, time.Since(began).Seconds())
		number++
	}
	// A stream of events: one put after the other; the last one has to reach everybody.
	before, began := all.told.Load(), time.Now()
	last := number + int64(chosen.stream) - 1
	all.expect(last, chosen.watchers)
	for ; number <= last; number++ {
		if err := put(); err != nil {
			fail(err)
		}
	}
	if err := all.wait(); err != nil {
		fail(err)
	}
	answer := map[string]any{
		"took_s": took, "stream_s": time.Since(began).Seconds(), "told": all.told.Load() - before,
		"sent": int64(chosen.stream) * int64(chosen.watchers),
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err)
	}
}

func (a *audience) oneHasBegun() error {
	select {
	case err := <-a.begun:
		return err
	case <-time.After(30 * time.Second):
		return fmt.Errorf("a watch did not begin in 30 s")
	}
}
