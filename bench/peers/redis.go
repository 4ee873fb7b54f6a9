package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisStore is the primary of a Redis with replicas: the first endpoint. A put is a SET and a WAIT for so many replicas that
// a majority of all members has it, in one round trip. WAIT does not make it a commit: see bench/README.md.
type redisStore struct {
	client   *redis.Client
	replicas int
}

func connectRedis(chosen settings) (store, error) {
	// WAIT holds its connection until the replicas have answered, so each put under way needs one.
	client := redis.NewClient(&redis.Options{
		Addr: chosen.endpoints[0], PoolSize: max(64, chosen.workers), MaxRetries: -1,
	})
	return &redisStore{client: client, replicas: len(chosen.endpoints) / 2}, nil
}

func (s *redisStore) waited(ctx context.Context, fill func(pipe redis.Pipeliner)) error {
	pipe := s.client.Pipeline()
	fill(pipe)
	wait := pipe.Do(ctx, "WAIT", s.replicas, (5 * time.Second).Milliseconds())
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	reached, err := wait.Int()
	if err == nil && reached < s.replicas {
		err = fmt.Errorf("only %d replicas have it", reached)
	}
	return err
}

func (s *redisStore) put(ctx context.Context, key string, value string) error {
	return s.waited(ctx, func(pipe redis.Pipeliner) { pipe.Set(ctx, key, value, 0) })
}

func (s *redisStore) get(ctx context.Context, key string, stale bool) error {
	if !stale {
		return errors.New("Redis has no linearizable reads")
	}
	return s.client.Get(ctx, key).Err()
}

func (s *redisStore) batch(ctx context.Context, keys []string, value string) error {
	pairs := make([]string, 0, 2*len(keys))
	for _, key := range keys {
		pairs = append(pairs, key, value)
	}
	return s.waited(ctx, func(pipe redis.Pipeliner) { pipe.MSet(ctx, pairs) })
}

func (s *redisStore) scan(ctx context.Context, start string, entries int) error {
	return errors.New("Redis keeps no order of keys")
}

func (s *redisStore) leader(ctx context.Context) (int, error) { return 0, nil }

func (s *redisStore) certain(err error) bool { return false }

func (s *redisStore) watch(ctx context.Context, key string, begun func(), told func(value string)) error {
	return errors.New("Redis has no watches that tell values")
}
