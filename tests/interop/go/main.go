// Command interop holds the Go stubs to the cases and to a live server; see ../README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"example.com/app/client"
	imagecallv1 "example.com/app/gen/imagecall/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const bigImage = 20_000_000

type clients struct {
	conversion imagecallv1.ConversionServiceClient
	generation imagecallv1.ImageGenerationServiceClient
	health     healthgrpc.HealthClient
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: interop ADDRESS CASES OUT DAMAGED")
	}
	conn, c := connected(os.Args[1])
	defer conn.Close()
	if err := c.checkCases(os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
	report("ConvertCalls", c.convertCalls())
	report("StreamImage", c.bigImage())
	report("error details", c.errorDetails())
	report("deadline", c.deadline())
	report("cancellation", c.cancellation())
	report("cancellation when damaged", cancellationWhenDamaged(os.Args[4]))
	report("many calls", manyCalls(os.Args[1]))
	report("health", c.healthy())
}

func connected(address string) (*grpc.ClientConn, *clients) {
	conn, err := client.Connect(address)
	if err != nil {
		log.Fatal(err)
	}
	return conn, &clients{
		imagecallv1.NewConversionServiceClient(conn),
		imagecallv1.NewImageGenerationServiceClient(conn),
		healthgrpc.NewHealthClient(conn),
	}
}

func report(name string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = strings.Join(strings.Fields(err.Error()), " ")
	}
	fmt.Printf("%s\t%s\n", name, outcome)
}

func (c *clients) checkCases(cases, out string) error {
	return filepath.WalkDir(cases, func(path string, _ fs.DirEntry, err error) error {
		base, isCase := strings.CutSuffix(path, ".binpb")
		if err != nil || !isCase {
			return err
		}
		name, err := filepath.Rel(cases, base)
		if err != nil {
			return err
		}
		report(filepath.ToSlash(name), c.checkCase(base, filepath.Join(out, name)))
		return nil
	})
}

// checkCase reads the files that begin with the path base, and writes those that begin with out.
func (c *clients) checkCase(base, out string) error {
	message, err := readCase(base)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := writeMessage(out+".binpb", message); err != nil {
		return err
	}
	directory, variant := filepath.Split(filepath.Dir(base))
	if filepath.Base(directory) != "items" {
		return nil
	}
	text, err := os.ReadFile(base + ".json")
	if err != nil {
		return err
	}
	ctx := context.Background()
	parsed, err := c.conversion.ParseCall(ctx, &imagecallv1.ParseCallRequest{Json: string(text), Variant: variant})
	if err != nil {
		return err
	}
	if err := writeMessage(out+".parsed.binpb", parsed.Call); err != nil {
		return err
	}
	call := message.(*imagecallv1.ImageGenerationCall)
	formatted, err := c.conversion.FormatCall(ctx, &imagecallv1.FormatCallRequest{Call: call})
	if err != nil {
		return err
	}
	return os.WriteFile(out+".json", []byte(formatted.Json), 0o644)
}

// readCase returns the message of a case, with its fields compared with what is expected.
func readCase(base string) (proto.Message, error) {
	var expected struct {
		Message protoreflect.FullName
		Fields  any
	}
	text, err := os.ReadFile(base + ".expected.json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &expected); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(base + ".binpb")
	if err != nil {
		return nil, err
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(expected.Message)
	if err != nil {
		return nil, err
	}
	message := kind.New().Interface()
	if err := proto.Unmarshal(data, message); err != nil {
		return nil, err
	}
	printed, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	var fields any
	if err := json.Unmarshal(printed, &fields); err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(fields, expected.Fields) {
		return nil, fmt.Errorf("the fields are %s", printed)
	}
	return message, nil
}

func writeMessage(path string, message proto.Message) error {
	data, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func (c *clients) convertCalls() error {
	const items, bad = 10_000, 5_000
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lines := func(yield func([]byte) bool) {
		for number := range items {
			line := fmt.Sprintf(`{"type":"image_generation_call","id":"ig_%d","result":"aGk="}`, number)
			if number == bad {
				line = `{"type":"image_generation_call","id":5}`
			}
			if !yield([]byte(line)) {
				return
			}
		}
	}
	answered := 0
	var fault error
	err := client.ConvertLines(ctx, c.conversion, lines, func(result *imagecallv1.ConversionResult) {
		call := result.GetCall().GetOutputImageGenerationCall()
		right := call.GetId() == fmt.Sprintf("ig_%d", answered) && string(call.GetResult().GetImage()) == "hi"
		if answered == bad {
			refusal := result.GetError()
			right = refusal.GetReason() == imagecallv1.ErrorReason_ERROR_REASON_WRONG_TYPE && refusal.Pointer == "/id"
		}
		if int(result.Index) != answered || !right {
			fault = fmt.Errorf("item %d was answered by %v", answered, result)
		}
		answered++
	})
	if err != nil {
		return err
	}
	if answered != items {
		return fmt.Errorf("%d items were answered", answered)
	}
	return fault
}

// embedded is a request with an order for the embedded backend.
func embedded(order string) *imagecallv1.ImageRequest {
	return &imagecallv1.ImageRequest{
		Prompt:      "a red fox in the snow",
		ExtraFields: []*imagecallv1.ExtraField{{Name: "embedded", Json: order}},
	}
}

func (c *clients) bigImage() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	order := fmt.Sprintf(`{"image_bytes":%d}`, bigImage)
	image, err := client.StreamImage(ctx, c.generation, embedded(order))
	if err != nil {
		return err
	}
	if len(image) != bigImage {
		return fmt.Errorf("%d bytes", len(image))
	}
	return nil
}

func (c *clients) errorDetails() error {
	_, err := c.conversion.ParseCall(context.Background(), &imagecallv1.ParseCallRequest{
		Json: `{"type":"image_generation_call","id":5}`,
	})
	refusal := status.Convert(err)
	var pointer, reason string
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			pointer = detail.FieldViolations[0].Field
		case *errdetails.ErrorInfo:
			reason = detail.Domain + " " + detail.Reason
		}
	}
	if refusal.Code() != codes.InvalidArgument || pointer != "/id" || reason != "imagecall WRONG_TYPE" {
		return fmt.Errorf("%v at %q for %q", refusal, pointer, reason)
	}
	return nil
}

func (c *clients) deadline() error {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := c.generation.GenerateImage(ctx, &imagecallv1.GenerateImageRequest{
		Request: embedded(`{"delay_seconds":60}`),
	})
	if took := time.Since(begun); status.Code(err) != codes.DeadlineExceeded || took > 2*time.Second {
		return fmt.Errorf("%v after %v", err, took)
	}
	return nil
}

func (c *clients) cancellation() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	order := fmt.Sprintf(`{"image_bytes":%d}`, bigImage)
	stream, err := c.generation.StreamImage(ctx, &imagecallv1.StreamImageRequest{Request: embedded(order)})
	if err != nil {
		return err
	}
	for {
		part, err := stream.Recv()
		if status.Code(err) == codes.Canceled {
			return c.healthy()
		}
		if err != nil {
			return err
		}
		if part.GetChunk() != nil {
			cancel()
		}
	}
}

// cancellationWhenDamaged calls a server that answers for its health once the stream is cancelled.
func cancellationWhenDamaged(address string) error {
	conn, c := connected(address)
	defer conn.Close()
	_, err := client.StreamImage(context.Background(), c.generation, embedded(`{}`))
	if err == nil || err.Error() != "a chunk is lost" {
		return fmt.Errorf("the error is %w", err)
	}
	return c.healthy()
}

// manyCalls generates images at once over a new connection.
func manyCalls(address string) error {
	const calls = 1_000
	conn, c := connected(address)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	outcomes := make(chan error, calls)
	for range calls {
		go func() {
			_, err := c.generation.GenerateImage(ctx, &imagecallv1.GenerateImageRequest{
				Request: embedded(`{"delay_seconds":0.1}`),
			})
			outcomes <- err
		}()
	}
	var failures []error
	for range calls {
		if err := <-outcomes; err != nil {
			failures = append(failures, err)
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d failed, one with %w", len(failures), failures[0])
	}
	return nil
}

func (c *clients) healthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := c.health.Check(ctx, &healthgrpc.HealthCheckRequest{
		Service: imagecallv1.ImageGenerationService_ServiceDesc.ServiceName,
	})
	if err == nil && answer.Status != healthgrpc.HealthCheckResponse_SERVING {
		err = errors.New(answer.Status.String())
	}
	return err
}
