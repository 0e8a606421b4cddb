// Command draw draws a fox: draw ADDRESS FILE.
package main

// README: begin
import (
	"context"
	"fmt"
	"os"
	"time"

	"example.com/app/client"
	imagecallv1 "example.com/app/gen/imagecall/v1"
)

func main() {
	if err := draw(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, client.Explain(err))
		os.Exit(1)
	}
}

func draw(address, file string) error {
	conn, err := client.Connect(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	request := &imagecallv1.ImageRequest{Prompt: "a red fox in the snow"}
	image, err := client.StreamImage(ctx, imagecallv1.NewImageGenerationServiceClient(conn), request)
	if err != nil {
		return err
	}
	return os.WriteFile(file, image, 0o644)
}

// README: end
