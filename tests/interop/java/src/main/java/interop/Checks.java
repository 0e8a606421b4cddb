package interop;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import imagecall.v1.ConversionResult;
import imagecall.v1.ConversionServiceGrpc;
import imagecall.v1.ConversionServiceGrpc.ConversionServiceBlockingStub;
import imagecall.v1.ConversionServiceGrpc.ConversionServiceBlockingV2Stub;
import imagecall.v1.ErrorReason;
import imagecall.v1.ExtraField;
import imagecall.v1.FormatCallRequest;
import imagecall.v1.GenerateImageRequest;
import imagecall.v1.GenerateImageResponse;
import imagecall.v1.ImageGenerationCall;
import imagecall.v1.ImageGenerationServiceGrpc;
import imagecall.v1.ImageGenerationServiceGrpc.ImageGenerationServiceBlockingStub;
import imagecall.v1.ImageGenerationServiceGrpc.ImageGenerationServiceBlockingV2Stub;
import imagecall.v1.ImageRequest;
import imagecall.v1.ParseCallRequest;
import imagecall.v1.StreamImageRequest;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;

class Checks {
  private static final String WRONG_ID = "{\"type\":\"image_generation_call\",\"id\":5}";
  private static final int LARGE = 20_000_000;

  private final ImageGenerationServiceBlockingStub images;
  private final ConversionServiceBlockingStub conversions;
  private final ImageGenerationServiceBlockingV2Stub imagesV2;
  private final ConversionServiceBlockingV2Stub conversionsV2;
  private final HealthGrpc.HealthBlockingStub health;

  Checks(Channel channel) {
    images = ImageGenerationServiceGrpc.newBlockingStub(channel);
    conversions = ConversionServiceGrpc.newBlockingStub(channel);
    imagesV2 = ImageGenerationServiceGrpc.newBlockingV2Stub(channel);
    conversionsV2 = ConversionServiceGrpc.newBlockingV2Stub(channel);
    health = HealthGrpc.newBlockingStub(channel);
  }

  public static void main(String[] args) throws Exception {
    var channel = Client.connect(args[0]);
    var cases = Path.of(args[1]);
    var out = Path.of(args[2]);
    var checks = new Checks(channel);
    try (var files = Files.walk(cases)) {
      for (var file : files.filter(file -> file.toString().endsWith(".binpb")).sorted().toList()) {
        var name = cases.relativize(file).toString().replaceFirst("\\.binpb$", "");
        report(name, () -> checks.checkCase(cases, name, out));
      }
    }
    report("ConvertCalls", checks::convertCalls);
    report("StreamImage", checks::streamImage);
    report("error details", checks::errorDetails);
    report("deadline", checks::deadline);
    report("cancellation", checks::cancellation);
    report("cancellation when damaged", () -> cancellationWhenDamaged(args[3]));
    report("many calls", () -> manyCalls(args[0]));
    report("health", checks::health);
    channel.shutdown();
  }

  private static void report(String name, Check check) {
    var outcome = "ok";
    try {
      check.run();
    } catch (Exception e) {
      outcome = e.toString().replaceAll("\\s+", " ");
    }
    System.out.println(name + "\t" + outcome);
  }

  private void checkCase(Path cases, String name, Path out) throws Exception {
    var json = JsonParser.parseString(Files.readString(cases.resolve(name + ".expected.json")));
    var expected = json.getAsJsonObject();
    // The Java package is the package of the schema, so a message's name is that of its class.
    var type = Class.forName(expected.get("message").getAsString());
    var prototype = (Message) type.getMethod("getDefaultInstance").invoke(null);
    var bytes = Files.readAllBytes(cases.resolve(name + ".binpb"));
    var message = prototype.getParserForType().parseFrom(bytes);
    Files.createDirectories(out.resolve(name).getParent());
    Files.write(out.resolve(name + ".binpb"), message.toByteArray());
    if (name.startsWith("items/")) {
      var item = Files.readString(cases.resolve(name + ".json"));
      var variant = Path.of(name).getName(1).toString();
      var parse = ParseCallRequest.newBuilder().setJson(item).setVariant(variant).build();
      var call = conversions.parseCall(parse).getCall();
      Files.write(out.resolve(name + ".parsed.binpb"), call.toByteArray());
      var format = FormatCallRequest.newBuilder().setCall((ImageGenerationCall) message).build();
      Files.writeString(out.resolve(name + ".json"), conversions.formatCall(format).getJson());
    }
    expect(expected.get("fields"), JsonParser.parseString(JsonFormat.printer().print(message)));
  }

  private void convertCalls() throws Exception {
    var items = IntStream.range(0, 10_000).mapToObj(n -> n == 5_000 ? WRONG_ID : item(n));
    var results = new ArrayList<ConversionResult>();
    Client.convertLines(
        conversionsV2.withDeadlineAfter(Duration.ofMinutes(1)),
        items.map(ByteString::copyFromUtf8)::iterator,
        results::add);
    expect(10_000, results.size());
    for (var n = 0; n < 10_000; n++) {
      var result = results.get(n);
      expect(n, result.getIndex());
      if (n == 5_000) {
        expect(ErrorReason.ERROR_REASON_WRONG_TYPE, result.getError().getReason());
        expect("/id", result.getError().getPointer());
      } else {
        var call = result.getCall().getOutputImageGenerationCall();
        expect("ig_" + n, call.getId());
        expect("hi", call.getResult().getImage().toString(UTF_8));
      }
    }
  }

  private void streamImage() throws Exception {
    var image = Client.streamImage(imagesV2, drawing("{\"image_bytes\":" + LARGE + "}"));
    expect(LARGE, image.size());
  }

  private void errorDetails() throws Exception {
    var request = ParseCallRequest.newBuilder().setJson(WRONG_ID).build();
    var error = failure(() -> conversions.parseCall(request));
    expect(Status.Code.INVALID_ARGUMENT, error.getStatus().getCode());
    var found = new ArrayList<String>();
    for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        var info = detail.unpack(ErrorInfo.class);
        found.add(info.getDomain() + " " + info.getReason());
      } else if (detail.is(BadRequest.class)) {
        for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
          found.add("at " + violation.getField());
        }
      }
    }
    expect(Set.of("imagecall WRONG_TYPE", "at /id"), Set.copyOf(found));
  }

  private void deadline() throws Exception {
    var request = GenerateImageRequest.newBuilder().setRequest(drawing("{\"delay_seconds\":60}"));
    var start = Instant.now();
    var hurried = images.withDeadlineAfter(Duration.ofMillis(500));
    var error = failure(() -> hurried.generateImage(request.build()));
    expect(Status.Code.DEADLINE_EXCEEDED, error.getStatus().getCode());
    var elapsed = Duration.between(start, Instant.now());
    if (elapsed.toSeconds() >= 2) {
      throw new IllegalStateException("it took " + elapsed);
    }
  }

  private void cancellation() throws Exception {
    var request = StreamImageRequest.newBuilder();
    request.setRequest(drawing("{\"image_bytes\":" + LARGE + "}"));
    try (var context = Context.current().withCancellation()) {
      var parts = context.call(() -> images.streamImage(request.build()));
      while (!parts.next().hasChunk()) {}
      context.cancel(null);
      var error = failure(() -> parts.forEachRemaining(part -> {}));
      expect(Status.Code.CANCELLED, error.getStatus().getCode());
    }
    health();
  }

  /** Calls a server that answers for its health once the stream is cancelled. */
  private static void cancellationWhenDamaged(String target) throws Exception {
    var channel = Client.connect(target);
    try {
      var checks = new Checks(channel);
      try {
        Client.streamImage(checks.imagesV2, drawing("{}"));
        throw new IllegalStateException("the call did not fail");
      } catch (IOException e) {
        expect("a chunk is lost", e.getMessage());
      }
      checks.health();
    } finally {
      channel.shutdownNow();
    }
  }

  /** Generates images at once over a new connection. */
  private static void manyCalls(String target) throws Exception {
    var channel = Client.connect(target);
    try {
      var images = ImageGenerationServiceGrpc.newFutureStub(channel);
      var request = GenerateImageRequest.newBuilder();
      request.setRequest(drawing("{\"delay_seconds\":0.1}"));
      var answers = new ArrayList<Future<GenerateImageResponse>>();
      for (var n = 0; n < 1_000; n++) {
        answers.add(images.generateImage(request.build()));
      }
      for (var answer : answers) {
        answer.get(60, TimeUnit.SECONDS);
      }
    } finally {
      channel.shutdownNow();
    }
  }

  private void health() {
    var service = ImageGenerationServiceGrpc.SERVICE_NAME;
    var request = HealthCheckRequest.newBuilder().setService(service).build();
    expect(ServingStatus.SERVING, health.check(request).getStatus());
  }

  private static String item(int n) {
    return "{\"type\":\"image_generation_call\",\"id\":\"ig_" + n + "\",\"result\":\"aGk=\"}";
  }

  private static ImageRequest drawing(String embedded) {
    return ImageRequest.newBuilder()
        .setPrompt("a red fox in the snow")
        .addExtraFields(ExtraField.newBuilder().setName("embedded").setJson(embedded))
        .build();
  }

  private static StatusRuntimeException failure(Check call) throws Exception {
    try {
      call.run();
    } catch (StatusRuntimeException e) {
      return e;
    }
    throw new IllegalStateException("the call did not fail");
  }

  private static void expect(Object expected, Object actual) {
    if (!Objects.equals(expected, actual)) {
      throw new IllegalStateException(actual + " instead of " + expected);
    }
  }

  private interface Check {
    void run() throws Exception;
  }
}
