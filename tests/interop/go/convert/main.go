// Command convert converts the items of a file, a line each: convert ADDRESS FILE.
package main

// README: begin
import (
	"bytes"
	"context"
	"fmt"
	"os"

	"example.com/app/client"
	imagecallv1 "example.com/app/gen/imagecall/v1"
)

func main() {
	if err := convert(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, client.Explain(err))
		os.Exit(1)
	}
}

func convert(address, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	conn, err := client.Connect(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	service := imagecallv1.NewConversionServiceClient(conn)
	return client.ConvertLines(context.Background(), service, bytes.Lines(data), report)
}

func report(result *imagecallv1.ConversionResult) {
	if refusal := result.GetError(); refusal != nil {
		fmt.Printf("%d: %s at %s: %s\n", result.Index, refusal.Reason, refusal.Pointer, refusal.Message)
		return
	}
	call := result.GetCall().GetOutputImageGenerationCall()
	fmt.Printf("%d: %s, %d bytes\n", result.Index, call.GetId(), len(call.GetResult().GetImage()))
}

// README: end
