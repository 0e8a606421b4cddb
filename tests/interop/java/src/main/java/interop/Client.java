package interop;

// README: begin
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import imagecall.v1.Chunk;
import imagecall.v1.ChunkEnd;
import imagecall.v1.Conversion;
import imagecall.v1.ConversionResult;
import imagecall.v1.ConversionServiceGrpc.ConversionServiceBlockingV2Stub;
import imagecall.v1.ConvertCallsRequest;
import imagecall.v1.ConvertCallsResponse;
import imagecall.v1.ImageGenerationCall;
import imagecall.v1.ImageGenerationServiceGrpc.ImageGenerationServiceBlockingV2Stub;
import imagecall.v1.ImageRequest;
import imagecall.v1.StreamEnd;
import imagecall.v1.StreamEnding;
import imagecall.v1.StreamImageRequest;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.BlockingClientCall;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.function.Consumer;
import java.util.stream.Stream;

class Client {
  private static final int BATCH = 65_536; // bytes of a message with many items

  /** Calls over TLS, with a token, if the environment names a CA file. */
  static ManagedChannel connect(String address) throws IOException {
    var authorities = System.getenv("IMAGECALL_TLS_CA");
    if (authorities == null) {
      return Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
    }
    // CAs of the system: TlsChannelCredentials.create().
    var tls = TlsChannelCredentials.newBuilder().trustManager(new File(authorities)).build();
    var headers = new Metadata();
    headers.put(
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
        "Bearer " + System.getenv("IMAGECALL_TOKEN"));
    return Grpc.newChannelBuilder(address, tls)
        .intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
        .build();
  }

  /** Returns the image, of any size. */
  static ByteString streamImage(ImageGenerationServiceBlockingV2Stub client, ImageRequest request)
      throws IOException, InterruptedException, StatusException {
    var parts = client.streamImage(StreamImageRequest.newBuilder().setRequest(request).build());
    try {
      var value = new Value();
      var image = ByteString.EMPTY;
      StreamEnd end = null;
      while (parts.hasNext()) {
        var part = parts.read();
        if (part.hasChunk()) {
          var whole = value.add(part.getChunk());
          if (part.getChunk().getEnd().getFinalImage()) { // not a partial image, nor a text
            image = whole;
          }
        } else {
          value.requireComplete();
          end = part.hasEnd() ? part.getEnd() : null; // or an event, which reports progress
        }
      }
      requireCompleted(end, image);
      return image;
    } finally {
      parts.cancel("no longer read", null); // ends the call where an exception is thrown
    }
  }

  private static void requireCompleted(StreamEnd end, ByteString image) throws IOException {
    if (end == null) {
      throw new IOException("the stream has no end");
    }
    if (end.getEnding() != StreamEnding.STREAM_ENDING_COMPLETED || image.isEmpty()) {
      var response = end.getResponse();
      var reasons =
          Stream.of(
              response.getError().getMessage(),
              response.getIncompleteDetails().getReason(),
              response.getRefusal(),
              response.getOutputText());
      var reason = reasons.filter(text -> !text.isEmpty()).findFirst().orElse("");
      throw new IOException("no image: " + end.getEnding() + ": " + reason);
    }
  }

  /**
   * Converts items, a line of JSON each. The lines are sent as bytes, in a chunk each: one that is
   * not UTF-8 is refused alone. In a Java string, its bad bytes would be replaced in silence.
   */
  static void convertLines(
      ConversionServiceBlockingV2Stub client,
      Iterable<ByteString> lines,
      Consumer<ConversionResult> each)
      throws IOException, InterruptedException, StatusException {
    var call = client.convertCalls();
    // While the results are read: the server waits for their reader.
    var sender = new Thread(() -> send(call, lines));
    sender.start();
    try {
      var value = new Value();
      while (call.hasNext()) {
        for (var result : call.read().getResultsList()) {
          if (!result.hasCallChunk()) {
            each.accept(result);
            continue;
          }
          var whole = value.add(result.getCallChunk());
          if (whole != null) {
            var item = ImageGenerationCall.parseFrom(whole);
            each.accept(result.toBuilder().setCall(item).build());
          }
        }
      }
      value.requireComplete();
    } finally {
      call.cancel("no longer read", null);
      sender.join();
    }
  }

  private static void send(
      BlockingClientCall<ConvertCallsRequest, ConvertCallsResponse> call,
      Iterable<ByteString> lines) {
    try {
      var request = ConvertCallsRequest.newBuilder();
      var size = 0;
      for (var line : lines) {
        var end = ChunkEnd.newBuilder().setSize(line.size()).setSha256(sha256(line));
        var chunk = Chunk.newBuilder().setData(line).setEnd(end);
        request.addConversions(Conversion.newBuilder().setJsonChunk(chunk));
        size += line.size();
        if (size >= BATCH) {
          call.write(request.build());
          request.clear();
          size = 0;
        }
      }
      call.write(request.build());
      call.halfClose();
    } catch (InterruptedException | StatusException e) {
      // The call has ended: its reader has the reason.
    } catch (RuntimeException e) {
      call.cancel("the lines cannot be sent", e); // no effect if the call has ended
    }
  }

  private static ByteString sha256(ByteString data) {
    try {
      var digest = MessageDigest.getInstance("SHA-256");
      data.asReadOnlyByteBufferList().forEach(digest::update);
      return ByteString.copyFrom(digest.digest());
    } catch (NoSuchAlgorithmException e) {
      throw new AssertionError(e); // Each JDK has it.
    }
  }

  /** Part of a value that has arrived. */
  private static class Value {
    private ByteString data = ByteString.EMPTY;

    /** Returns the whole value with its last chunk, and null before. */
    ByteString add(Chunk chunk) throws IOException {
      if (chunk.getOffset() != data.size()) {
        throw new IOException("a chunk is lost");
      }
      data = data.concat(chunk.getData());
      if (!chunk.hasEnd()) {
        return null;
      }
      var whole = data;
      data = ByteString.EMPTY;
      if (chunk.getEnd().getSize() != whole.size()
          || !chunk.getEnd().getSha256().equals(sha256(whole))) {
        throw new IOException("the value is damaged");
      }
      return whole;
    }

    void requireComplete() throws IOException {
      if (!data.isEmpty()) {
        throw new IOException("a chunk is lost");
      }
    }
  }

  /** Returns the message of an error, with the details that came with it. */
  static String explain(Exception error) throws InvalidProtocolBufferException {
    var text = new StringBuilder(String.valueOf(error.getMessage()));
    var status = StatusProto.fromThrowable(error);
    if (status == null) {
      return text.toString(); // not an error of a call
    }
    for (var detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        text.append(", reason ").append(detail.unpack(ErrorInfo.class).getReason());
      } else if (detail.is(BadRequest.class)) {
        for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
          text.append(", at ").append(violation.getField());
        }
      } else if (detail.is(RetryInfo.class)) {
        var delay = detail.unpack(RetryInfo.class).getRetryDelay();
        text.append(", retry after ").append(delay.getSeconds()).append(" s");
      }
    }
    return text.toString();
  }
}
// README: end
