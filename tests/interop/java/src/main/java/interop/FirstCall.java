package interop;

// README: begin
import com.google.protobuf.ByteString;
import imagecall.v1.ImageGenerationServiceGrpc;
import imagecall.v1.ImageGenerationServiceGrpc.ImageGenerationServiceBlockingStub;
import imagecall.v1.ImageRequest;
import imagecall.v1.StreamEnding;
import imagecall.v1.StreamImageRequest;
import imagecall.v1.StreamImageResponse;
import io.grpc.ManagedChannelBuilder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;

// README: end
class FirstCall {
  // README: begin
  public static void main(String[] args) throws Exception {
    var channel = ManagedChannelBuilder.forTarget("127.0.0.1:50051").usePlaintext().build();
    var client = ImageGenerationServiceGrpc.newBlockingStub(channel);
    var request = ImageRequest.newBuilder().setPrompt("a red fox in the snow").build();
    var image = streamImage(client.withDeadlineAfter(Duration.ofMinutes(2)), request);
    Files.write(Path.of("fox.png"), image.toByteArray());
    channel.shutdown();
  }

  static ByteString streamImage(ImageGenerationServiceBlockingStub client, ImageRequest request)
      throws IOException, NoSuchAlgorithmException {
    var parts = client.streamImage(StreamImageRequest.newBuilder().setRequest(request).build());
    var image = ByteString.EMPTY;
    var value = ByteString.EMPTY; // what the chunks make up so far
    var part = StreamImageResponse.getDefaultInstance();
    while (parts.hasNext()) {
      part = parts.next();
      var chunk = part.getChunk(); // of an event: no bytes at offset 0
      if (chunk.getOffset() != value.size()) {
        throw new IOException("a chunk is lost");
      }
      value = value.concat(chunk.getData());
      if (chunk.hasEnd()) {
        var end = chunk.getEnd();
        var sha256 = MessageDigest.getInstance("SHA-256");
        value.asReadOnlyByteBufferList().forEach(sha256::update);
        if (end.getSize() != value.size()
            || !end.getSha256().equals(ByteString.copyFrom(sha256.digest()))) {
          throw new IOException("a value is damaged");
        }
        if (end.getFinalImage()) { // not a partial image, nor another large value
          image = value;
        }
        value = ByteString.EMPTY;
      }
    }
    if (part.getEnd().getEnding() != StreamEnding.STREAM_ENDING_COMPLETED || image.isEmpty()) {
      throw new IOException("the image is not complete");
    }
    return image;
  }
  // README: end
}
