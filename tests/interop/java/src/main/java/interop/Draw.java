package interop;

// README: begin
import imagecall.v1.ImageGenerationServiceGrpc;
import imagecall.v1.ImageRequest;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

class Draw {
  public static void main(String[] args) throws Exception {
    var channel = Client.connect(args[0]);
    try {
      var client =
          ImageGenerationServiceGrpc.newBlockingV2Stub(channel)
              .withDeadlineAfter(Duration.ofMinutes(2));
      var request = ImageRequest.newBuilder().setPrompt("a red fox in the snow").build();
      var image = Client.streamImage(client, request);
      Files.write(Path.of(args[1]), image.toByteArray());
    } catch (Exception e) {
      System.err.println(Client.explain(e));
      System.exit(1);
    } finally {
      channel.shutdown();
    }
  }
}
// README: end
