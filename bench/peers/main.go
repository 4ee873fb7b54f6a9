// Command peers is what the benchmarks compare DougDB with, in one program: the servers of etcd and of NATS JetStream,
// linked in from their modules, and load generators that speak to each of them, and to Redis, by its own Go client.
//
// Of DougDB it knows the routes of single keys and of watches, and it tunes nothing: both servers run with their own defaults,
// except that NATS is told to sync every write, as the others do.
//
//	peers etcd ARGUMENTS...       an etcd member, with etcd's own command line
//	peers nats FILE               a NATS server with this configuration
//	peers load --help             a closed load: so many requests are always under way; each of these prints a line of JSON
//	peers open ARGUMENTS...       an open load: requests are sent by a schedule
//	peers watch ARGUMENTS...      many watchers of one key
//	peers leader ARGUMENTS...     which endpoint's member leads
package main

import (
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: peers etcd|nats|load|open|watch|leader ARGUMENTS"))
	}
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "etcd":
		etcdmain.Main(append([]string{"etcd"}, arguments...))
	case "nats":
		serveNats(arguments)
	case "load":
		load(arguments)
	case "open":
		openLoad(arguments)
	case "watch":
		watchLoad(arguments)
	case "leader":
		printLeader(arguments)
	default:
		fail(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

func serveNats(arguments []string) {
	if len(arguments) != 1 {
		fail(fmt.Errorf("usage: peers nats FILE"))
	}
	options, err := server.ProcessConfigFile(arguments[0])
	if err != nil {
		fail(err)
	}
	node, err := server.NewServer(options)
	if err != nil {
		fail(err)
	}
	node.ConfigureLogger()
	if err := server.Run(node); err != nil {
		fail(err)
	}
	node.WaitForShutdown()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "peers:", err)
	os.Exit(1)
}
