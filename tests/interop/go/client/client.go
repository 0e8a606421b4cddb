// Package client calls imagecall.
package client

// README: begin
import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	imagecallv1 "example.com/app/gen/imagecall/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Connect calls over TLS, with a token, if the environment names a CA file.
func Connect(address string) (*grpc.ClientConn, error) {
	ca := os.Getenv("IMAGECALL_TLS_CA")
	if ca == "" {
		return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	tls, err := credentials.NewClientTLSFromFile(ca, "") // CAs of the system: NewTLS(nil).
	if err != nil {
		return nil, err
	}
	token := grpc.WithPerRPCCredentials(token(os.Getenv("IMAGECALL_TOKEN")))
	return grpc.NewClient(address, grpc.WithTransportCredentials(tls), token)
}

type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return true }

// StreamImage returns the image, of any size.
func StreamImage(ctx context.Context, client imagecallv1.ImageGenerationServiceClient, request *imagecallv1.ImageRequest) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Ends the call where an error is returned early.
	stream, err := client.StreamImage(ctx, &imagecallv1.StreamImageRequest{Request: request})
	if err != nil {
		return nil, err
	}
	var value Value
	var image []byte
	var end *imagecallv1.StreamEnd
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			return finished(image, end)
		}
		if err != nil {
			return nil, err
		}
		chunk := part.GetChunk()
		if chunk == nil {
			end = part.GetEnd() // Or part.GetEvent() reports progress.
			if err := value.Complete(); err != nil {
				return nil, err
			}
			continue
		}
		whole, err := value.Add(chunk)
		if err != nil {
			return nil, err
		}
		if chunk.GetEnd().GetFinalImage() { // Not a partial image, nor another large value.
			image = whole
		}
	}
}

func finished(image []byte, end *imagecallv1.StreamEnd) ([]byte, error) {
	if end == nil {
		return nil, errors.New("the stream has no end")
	}
	if end.Ending == imagecallv1.StreamEnding_STREAM_ENDING_COMPLETED && len(image) > 0 {
		return image, nil
	}
	response := end.GetResponse()
	reason := cmp.Or(response.GetError().GetMessage(), response.GetIncompleteDetails().GetReason(), response.GetRefusal(), response.GetOutputText())
	return nil, fmt.Errorf("no image: %s: %s", end.Ending, reason)
}

// ConvertLines converts items, a line of JSON each. The lines are sent as bytes, in a chunk each:
// one that is not UTF-8 is refused alone, where in a string it would end the stream.
func ConvertLines(ctx context.Context, client imagecallv1.ConversionServiceClient, lines iter.Seq[[]byte], each func(*imagecallv1.ConversionResult)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ConvertCalls(ctx)
	if err != nil {
		return err
	}
	go send(stream, lines) // While the results are read: the server waits for their reader.
	var value Value
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return value.Complete()
		}
		if err != nil {
			return err
		}
		for _, result := range response.Results {
			if chunk := result.GetCallChunk(); chunk != nil {
				whole, err := value.Add(chunk)
				if err != nil {
					return err
				}
				if whole == nil {
					continue
				}
				call := &imagecallv1.ImageGenerationCall{}
				if err := proto.Unmarshal(whole, call); err != nil {
					return err
				}
				result.Output = &imagecallv1.ConversionResult_Call{Call: call}
			}
			each(result)
		}
	}
}

// send sends messages of about 64 KiB. An error of the stream comes out of Recv.
func send(stream imagecallv1.ConversionService_ConvertCallsClient, lines iter.Seq[[]byte]) {
	request, size := &imagecallv1.ConvertCallsRequest{}, 0
	for line := range lines {
		sum := sha256.Sum256(line)
		request.Conversions = append(request.Conversions, &imagecallv1.Conversion{
			Input: &imagecallv1.Conversion_JsonChunk{JsonChunk: &imagecallv1.Chunk{
				Data: line,
				End:  &imagecallv1.ChunkEnd{Size: uint32(len(line)), Sha256: sum[:]},
			}},
		})
		if size += len(line); size >= 1<<16 {
			if stream.Send(request) != nil {
				return
			}
			request, size = &imagecallv1.ConvertCallsRequest{}, 0
		}
	}
	if stream.Send(request) == nil {
		stream.CloseSend()
	}
}

// Value is the part of a value that has arrived.
type Value []byte

// Add returns the whole value with its last chunk, and nil before.
func (v *Value) Add(chunk *imagecallv1.Chunk) ([]byte, error) {
	if int(chunk.Offset) != len(*v) {
		return nil, errors.New("a chunk is lost")
	}
	*v = append(*v, chunk.Data...)
	if chunk.End == nil {
		return nil, nil
	}
	sum := sha256.Sum256(*v)
	if int(chunk.End.Size) != len(*v) || !bytes.Equal(chunk.End.Sha256, sum[:]) {
		return nil, errors.New("the value is damaged")
	}
	whole := *v
	*v = nil
	return whole, nil
}

// Complete returns an error if a value has begun and has not ended.
func (v Value) Complete() error {
	if len(v) > 0 {
		return errors.New("a chunk is lost")
	}
	return nil
}

// Explain returns the message of an error, with the details that came with it.
func Explain(err error) string {
	text := err.Error()
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			text += ", reason " + detail.Reason
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				text += ", at " + violation.Field
			}
		case *errdetails.RetryInfo:
			text += fmt.Sprintf(", retry after %.0f s", detail.RetryDelay.AsDuration().Seconds())
		}
	}
	return text
}

// README: end
