package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsStore is a bucket of JetStream's key-value store with five replicas, reached over a few connections.
type natsStore struct {
	buckets []jetstream.KeyValue
	streams []jetstream.JetStream
	next    atomic.Uint64
}

func connectNats(chosen settings) (store, error) {
	found := &natsStore{}
	for number := range max(1, min(chosen.clients, chosen.workers)) {
		connection, err := nats.Connect("nats://" + chosen.endpoints[number%len(chosen.endpoints)])
		if err != nil {
			return nil, err
		}
		stream, err := jetstream.New(connection)
		if err != nil {
			return nil, err
		}
		bucket, err := openBucket(stream, len(chosen.endpoints))
		if err != nil {
			return nil, err
		}
		found.buckets = append(found.buckets, bucket)
		found.streams = append(found.streams, stream)
	}
	return found, nil
}

// openBucket waits until the cluster has chosen its leaders, which it refuses to make a bucket before.
func openBucket(stream jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	configuration := jetstream.KeyValueConfig{Bucket: "bench", Replicas: replicas, History: 1, Storage: jetstream.FileStorage}
	var last error
	for ends := time.Now().Add(30 * time.Second); time.Now().Before(ends); time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		bucket, err := stream.KeyValue(ctx, "bench")
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			bucket, err = stream.CreateKeyValue(ctx, configuration)
		}
		cancel()
		if err == nil {
			return bucket, nil
		}
		last = err
	}
	return nil, last
}

func (s *natsStore) pick() int { return int(s.next.Add(1) % uint64(len(s.buckets))) }

// natsKey is the same key in the characters that a subject may have.
func natsKey(key string) string { return strings.ReplaceAll(key, "/", ".") }

func (s *natsStore) put(ctx context.Context, key string, value string) error {
	_, err := s.buckets[s.pick()].PutString(ctx, natsKey(key), value)
	return err
}

// get is a direct get of the bucket: JetStream lets any replica answer, so there is no linearizable read to compare.
func (s *natsStore) get(ctx context.Context, key string, stale bool) error {
	if !stale {
		return errors.New("a bucket has no linearizable reads")
	}
	_, err := s.buckets[s.pick()].Get(ctx, natsKey(key))
	return err
}

func (s *natsStore) batch(ctx context.Context, keys []string, value string) error {
	return errors.New("a bucket has no batches")
}

func (s *natsStore) scan(ctx context.Context, start string, entries int) error {
	return errors.New("a bucket has no scans")
}

// leader is the member that leads the stream of the bucket, by the number in its name; clients reach it wherever they are.
func (s *natsStore) leader(ctx context.Context) (int, error) {
	stream, err := s.streams[0].Stream(ctx, "KV_bench")
	if err != nil {
		return 0, err
	}
	found, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	var number int
	if found.Cluster == nil {
		return 0, errors.New("the bucket has no cluster")
	}
	_, err = fmt.Sscanf(found.Cluster.Leader, "m%d", &number)
	return number, err
}

func (s *natsStore) certain(err error) bool {
	none := []error{nats.ErrNoResponders, jetstream.ErrNoStreamResponse}
	return slices.ContainsFunc(none, func(one error) bool { return errors.Is(err, one) })
}

func (s *natsStore) watch(ctx context.Context, key string, begun func(), told func(value string)) error {
	watcher, err := s.buckets[s.pick()].Watch(ctx, natsKey(key), jetstream.UpdatesOnly())
	if err != nil {
		return err
	}
	begun()
	for change := range watcher.Updates() {
		if change != nil {
			told(string(change.Value()))
		}
	}
	return errors.New("the watch has ended")
}
