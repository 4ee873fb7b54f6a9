package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand"
	"os"
	"strings"
	"sync"
	"time"
)

// record is one request of an open load, in microseconds since the start: when it was due, when it was begun (later if the
// generator was late or all places were taken), when it ended, and how: 0 for done, else a number of outcomes.
type record [4]int64

// outcomes is what a request of an open load may come to.
type outcomes struct {
	mutex sync.Mutex
	known map[string]int64
	texts []string
}

// number gives each text a number, the same text the same one.
func (o *outcomes) number(text string) int64 {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	found, is := o.known[text]
	if !is {
		found = int64(len(o.texts))
		o.known[text] = found
		o.texts = append(o.texts, text)
	}
	return found
}

// describe says what an error means for a write: "failed" if it is certainly not done, else "unknown".
func describe(target store, err error) string {
	if err == nil {
		return "done"
	}
	kind := "unknown: "
	if target.certain(err) {
		kind = "failed: "
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return kind + "no answer in time"
	}
	text := err.Error()
	// What differs from request to request, such as addresses and ports, does not make another kind.
	if cut := strings.LastIndex(text, ": "); cut >= 0 && len(text) > 60 {
		text = text[cut+2:]
	}
	return kind + text
}

// due is when each request of a schedule is to be sent: at equal distances, or by a Poisson process that a seed draws.
func due(chosen settings) []time.Duration {
	random := rand.New(rand.NewSource(chosen.seed))
	var found []time.Duration
	gap := float64(time.Second) / chosen.rate
	for at := 0.0; at < chosen.seconds*float64(time.Second); {
		found = append(found, time.Duration(at))
		if chosen.poisson {
			at += random.ExpFloat64() * gap
		} else {
			at += gap
		}
	}
	return found
}

// openLoad sends requests by a schedule, whether or not earlier ones have been answered, and prints a record of each.
func openLoad(arguments []string) {
	chosen := parse(arguments)
	chosen.everywhere = true
	target, err := connect(chosen)
	if err != nil {
		fail(err)
	}
	if chosen.rate <= 0 {
		fail(errors.New("-rate must be positive"))
	}
	schedule := due(chosen)
	records := make([]record, len(schedule))
	found := &outcomes{known: map[string]int64{}}
	found.number("done")
	value := strings.Repeat("v", chosen.valueSize)
	numbers := make(chan int, len(schedule))
	spent, began := cpuSeconds(), time.Now()
	var group sync.WaitGroup
	for seed := range chosen.workers {
		one := &worker{chosen: chosen, store: target, value: value, random: rand.New(rand.NewSource(int64(seed)))}
		group.Go(func() {
			for number := range numbers {
				begun := time.Since(began)
				_, err := one.one(keyOf(one.random.Intn(chosen.keys)))
				records[number] = record{
					schedule[number].Microseconds(), begun.Microseconds(), time.Since(began).Microseconds(),
					found.number(describe(target, err)),
				}
			}
		})
	}
	for number, at := range schedule {
		time.Sleep(at - time.Since(began))
		numbers <- number
	}
	close(numbers)
	group.Wait()
	answer := map[string]any{
		"started_unix_s": float64(began.UnixMicro()) / 1e6, "outcomes": found.texts, "records": records,
		"generator_cpu_s": cpuSeconds() - spent,
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err)
	}
}

// printLeader prints the number of the endpoint whose member leads.
func printLeader(arguments []string) {
	target, err := connect(parse(arguments))
	if err != nil {
		fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	number, err := target.leader(ctx)
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]int{"leader": number}); err != nil {
		fail(err)
	}
}
