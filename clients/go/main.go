// Command client buys two seats from boxoffice and gives them back, as ../SCENARIO.md tells.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	// Lets the channel ask the servers for their health, as the service config says.
	_ "google.golang.org/grpc/health"
)

// serviceConfig is where the deadlines and retries of all calls are, seen from this folder.
var serviceConfig = filepath.Join("..", "..", "proto", "service_config.json")

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(context.Background(), address); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address string) error {
	config, err := os.ReadFile(serviceConfig)
	if err != nil {
		return fmt.Errorf("start the program in its folder: %w", err)
	}
	// Since grpc-go 1.63 grpc.NewClient does this, and since 1.40 retries need no GRPC_GO_RETRY=on.
	conn, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithDefaultServiceConfig(string(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	return newScenario(conn).play(ctx)
}
