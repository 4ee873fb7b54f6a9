package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A store is one of the systems, reached by its own client.
type store interface {
	// put stores one value under one key.
	put(ctx context.Context, key string, value string) error
	// get reads one key; stale reads may come from any replica.
	get(ctx context.Context, key string, stale bool) error
	// batch stores the same value under all keys in one request.
	batch(ctx context.Context, keys []string, value string) error
	// scan reads as many entries from a key on, in the order of keys.
	scan(ctx context.Context, start string, entries int) error
	// watch tells the values of a key until the context ends or the watch breaks.
	watch(ctx context.Context, key string, begun func(), told func(value string)) error
	// leader is the number of the endpoint whose member leads.
	leader(ctx context.Context) (int, error)
	// certain is whether a put that ended with this error has certainly changed nothing.
	certain(err error) bool
}

// settings is what the command line asks for; everywhere lets each connection go on at another member when its own is gone.
type settings struct {
	peer      string
	endpoints []string
	kind      string
	workers   int
	clients   int
	seconds   float64
	keys      int
	batch     int
	entries   int
	valueSize int
	fill      bool
	timeout   time.Duration

	everywhere bool
	rate       float64
	poisson    bool
	seed       int64

	watchers int
	events   int
	stream   int
}

type figures struct {
	OperationsPerSecond float64        `json:"operations_per_s"`
	P50                 float64        `json:"p50_ms"`
	P99                 float64        `json:"p99_ms"`
	P999                float64        `json:"p99.9_ms"`
	CPU                 float64        `json:"generator_cpu_us"`
	Errors              map[string]int `json:"errors"`
}

func parse(arguments []string) settings {
	var chosen settings
	var endpoints string
	flags := flag.NewFlagSet("peers load", flag.ExitOnError)
	flags.StringVar(&chosen.peer, "peer", "etcd", "etcd, nats, redis or dougdb")
	flags.StringVar(&endpoints, "endpoints", "", "host:port of every member, with commas")
	flags.StringVar(&chosen.kind, "kind", "put", "put, linearizable, stale, mixed, batch or scan")
	flags.IntVar(&chosen.workers, "workers", 64, "requests in flight")
	flags.IntVar(&chosen.clients, "clients", 8, "connections that the workers share")
	flags.Float64Var(&chosen.seconds, "seconds", 5, "how long")
	flags.IntVar(&chosen.keys, "keys", 100_000, "how many keys")
	flags.IntVar(&chosen.batch, "batch", 128, "puts in one batch")
	flags.IntVar(&chosen.entries, "entries", 100, "entries of one scan")
	flags.IntVar(&chosen.valueSize, "value-bytes", 100, "size of each value")
	flags.BoolVar(&chosen.fill, "fill", false, "put every key once, and stop")
	flags.DurationVar(&chosen.timeout, "timeout", 15*time.Second, "after how long a request is given up")
	flags.Float64Var(&chosen.rate, "rate", 0, "open: requests a second")
	flags.BoolVar(&chosen.poisson, "poisson", false, "open: at random distances instead of equal ones")
	flags.Int64Var(&chosen.seed, "seed", 1, "open: the seed of these distances")
	flags.IntVar(&chosen.watchers, "watchers", 1000, "watch: how many")
	flags.IntVar(&chosen.events, "events", 20, "watch: how many events one at a time")
	flags.IntVar(&chosen.stream, "stream", 100, "watch: how many events one behind the other")
	_ = flags.Parse(arguments)
	chosen.endpoints = strings.Split(endpoints, ",")
	return chosen
}

func connect(chosen settings) (store, error) {
	switch chosen.peer {
	case "etcd":
		return connectEtcd(chosen)
	case "nats":
		return connectNats(chosen)
	case "redis":
		return connectRedis(chosen)
	case "dougdb":
		return connectDoug(chosen)
	}
	return nil, fmt.Errorf("unknown peer %q", chosen.peer)
}

func keyOf(number int) string { return fmt.Sprintf("bench/%08d", number) }

// worker is one closed loop: it has at most one request under way.
type worker struct {
	number    int
	chosen    settings
	store     store
	value     string
	random    *rand.Rand
	ends      time.Time
	latencies []time.Duration
	errors    map[string]int
	done      int
	asked     int
}

func (w *worker) run() {
	next := w.number
	for w.chosen.fill || time.Now().Before(w.ends) {
		key := keyOf(w.random.Intn(w.chosen.keys))
		if w.chosen.fill {
			if next >= w.chosen.keys {
				return
			}
			key, next = keyOf(next), next+w.chosen.workers
		}
		began := time.Now()
		count, err := w.one(key)
		w.latencies = append(w.latencies, time.Since(began))
		if err != nil {
			w.errors[err.Error()]++
			continue
		}
		w.done += count
	}
}

func (w *worker) one(key string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.chosen.timeout)
	defer cancel()
	switch w.chosen.kind {
	case "put":
		return 1, w.store.put(ctx, key, w.value)
	case "linearizable":
		return 1, w.store.get(ctx, key, false)
	case "stale":
		return 1, w.store.get(ctx, key, true)
	case "mixed":
		// Half puts, half linearizable reads; every second worker begins with a read.
		w.asked++
		if (w.asked+w.number)%2 == 0 {
			return 1, w.store.get(ctx, key, false)
		}
		return 1, w.store.put(ctx, key, w.value)
	case "scan":
		return 1, w.store.scan(ctx, key, w.chosen.entries)
	case "batch":
		keys := make([]string, w.chosen.batch)
		first := w.random.Intn(w.chosen.keys)
		for index := range keys {
			keys[index] = keyOf((first + index*7919) % w.chosen.keys)
		}
		return len(keys), w.store.batch(ctx, keys, w.value)
	}
	return 0, fmt.Errorf("unknown kind %q", w.chosen.kind)
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		fail(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func load(arguments []string) {
	chosen := parse(arguments)
	target, err := connect(chosen)
	if err != nil {
		fail(err)
	}
	value := strings.Repeat("v", chosen.valueSize)
	workers := make([]*worker, chosen.workers)
	spent, began := cpuSeconds(), time.Now()
	var group sync.WaitGroup
	for number := range workers {
		one := &worker{
			number: number, chosen: chosen, store: target, value: value, random: rand.New(rand.NewSource(int64(number))),
			ends: began.Add(time.Duration(chosen.seconds * float64(time.Second))), errors: map[string]int{},
		}
		workers[number] = one
		group.Go(one.run)
	}
	group.Wait()
	elapsed, used := time.Since(began).Seconds(), cpuSeconds()-spent
	if err := json.NewEncoder(os.Stdout).Encode(summarise(workers, elapsed, used)); err != nil {
		fail(err)
	}
}

func summarise(workers []*worker, elapsed float64, used float64) figures {
	result := figures{Errors: map[string]int{}}
	var all []time.Duration
	done := 0
	for _, one := range workers {
		all = append(all, one.latencies...)
		done += one.done
		for text, count := range one.errors {
			result.Errors[text] += count
		}
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return all[min(len(all)-1, int(share*float64(len(all))))].Seconds() * 1000
	}
	result.OperationsPerSecond = float64(done) / elapsed
	result.P50, result.P99, result.P999 = at(0.5), at(0.99), at(0.999)
	result.CPU = used * 1e6 / float64(max(1, len(all)))
	return result
}
