package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdStore shares a few connections among all workers, each to all members, as etcd's own benchmark does.
type etcdStore struct {
	clients []*clientv3.Client
	next    atomic.Uint64
}

func connectEtcd(chosen settings) (store, error) {
	found := &etcdStore{}
	for number := range max(1, min(chosen.clients, chosen.workers)) {
		// Each connection goes to another member; a client balances over its endpoints by itself otherwise.
		endpoints := []string{chosen.endpoints[number%len(chosen.endpoints)]}
		if chosen.everywhere {
			endpoints = chosen.endpoints
		}
		client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second})
		if err != nil {
			return nil, err
		}
		found.clients = append(found.clients, client)
	}
	return found, nil
}

func (s *etcdStore) client() *clientv3.Client {
	return s.clients[s.next.Add(1)%uint64(len(s.clients))]
}

func (s *etcdStore) put(ctx context.Context, key string, value string) error {
	_, err := s.client().Put(ctx, key, value)
	return err
}

func (s *etcdStore) get(ctx context.Context, key string, stale bool) error {
	var options []clientv3.OpOption
	if stale {
		options = append(options, clientv3.WithSerializable())
	}
	_, err := s.client().Get(ctx, key, options...)
	return err
}

func (s *etcdStore) batch(ctx context.Context, keys []string, value string) error {
	puts := make([]clientv3.Op, 0, len(keys))
	known := make(map[string]bool, len(keys))
	for _, key := range keys {
		// A transaction may name a key once.
		if !known[key] {
			known[key] = true
			puts = append(puts, clientv3.OpPut(key, value))
		}
	}
	_, err := s.client().Txn(ctx).Then(puts...).Commit()
	return err
}

func (s *etcdStore) scan(ctx context.Context, start string, entries int) error {
	// "bench0" is the first key behind all that begin with "bench/".
	_, err := s.client().Get(ctx, start, clientv3.WithRange("bench0"), clientv3.WithLimit(int64(entries)))
	return err
}

func (s *etcdStore) leader(ctx context.Context) (int, error) {
	for number, client := range s.clients {
		status, err := client.Status(ctx, client.Endpoints()[0])
		if err == nil && status.Leader == status.Header.MemberId {
			return number, nil
		}
	}
	return 0, errors.New("no member leads")
}

func (s *etcdStore) certain(err error) bool {
	return errors.Is(err, rpctypes.ErrNoLeader) || errors.Is(err, rpctypes.ErrTooManyRequests)
}

func (s *etcdStore) watch(ctx context.Context, key string, begun func(), told func(value string)) error {
	for answer := range s.client().Watch(ctx, key, clientv3.WithCreatedNotify()) {
		if err := answer.Err(); err != nil {
			return err
		}
		if answer.Created {
			begun()
		}
		for _, event := range answer.Events {
			told(string(event.Kv.Value))
		}
	}
	return errors.New("the watch has ended")
}
