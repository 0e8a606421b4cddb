package interop;

// README: begin
import static java.nio.charset.StandardCharsets.ISO_8859_1;

import com.google.protobuf.ByteString;
import imagecall.v1.ConversionResult;
import imagecall.v1.ConversionServiceGrpc;
import java.nio.file.Files;
import java.nio.file.Path;

class Convert {
  public static void main(String[] args) throws Exception {
    var channel = Client.connect(args[0]);
    var client = ConversionServiceGrpc.newBlockingV2Stub(channel);
    // ISO 8859-1 keeps each byte as it is.
    try (var lines = Files.lines(Path.of(args[1]), ISO_8859_1)) {
      var bytes = lines.map(line -> ByteString.copyFrom(line, ISO_8859_1));
      Client.convertLines(client, bytes::iterator, Convert::report);
    } catch (Exception e) {
      System.err.println(Client.explain(e));
      System.exit(1);
    } finally {
      channel.shutdown();
    }
  }

  private static void report(ConversionResult result) {
    if (result.hasError()) {
      var error = result.getError();
      System.out.printf(
          "%d: %s at %s: %s%n",
          result.getIndex(), error.getReason(), error.getPointer(), error.getMessage());
      return;
    }
    var call = result.getCall().getOutputImageGenerationCall();
    System.out.printf(
        "%d: %s, %d bytes%n",
        result.getIndex(), call.getId(), call.getResult().getImage().size());
  }
}
// README: end
