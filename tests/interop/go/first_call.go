package main

// README: begin
import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"time"

	imagecallv1 "example.com/app/gen/imagecall/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func drawFox(address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client := imagecallv1.NewImageGenerationServiceClient(conn)
	image, _, err := streamImage(ctx, client, &imagecallv1.ImageRequest{Prompt: "a red fox in the snow"})
	if err != nil {
		return err
	}
	return os.WriteFile("fox.png", image, 0o644)
}

// streamImage returns the image, of any size, reassembled from its chunks, and the end of the stream.
func streamImage(ctx context.Context, client imagecallv1.ImageGenerationServiceClient, request *imagecallv1.ImageRequest) ([]byte, *imagecallv1.StreamEnd, error) {
	stream, err := client.StreamImage(ctx, &imagecallv1.StreamImageRequest{Request: request})
	if err != nil {
		return nil, nil, err
	}
	var value, image []byte
	var streamEnd *imagecallv1.StreamEnd
	for {
		part, err := stream.Recv()
		if err == io.EOF && streamEnd != nil {
			return image, streamEnd, nil
		}
		if err != nil {
			return nil, nil, err // Also io.EOF: without an end, the stream was cut.
		}
		if end := part.GetEnd(); end != nil {
			streamEnd = end
		}
		chunk := part.GetChunk()
		if chunk == nil {
			continue // part.GetEvent() reports progress.
		}
		if int(chunk.Offset) != len(value) {
			return nil, nil, errors.New("a chunk is lost")
		}
		value = append(value, chunk.Data...)
		if end := chunk.End; end != nil {
			if sum := sha256.Sum256(value); int(end.Size) != len(value) || !bytes.Equal(sum[:], end.Sha256) {
				return nil, nil, errors.New("the chunks are damaged")
			}
			if end.FinalImage { // Not a partial image, nor another large value.
				image = value
			}
			value = nil
		}
	}
}

// README: end
