// The checks of ../README.md.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/error_details.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "client.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace {

namespace fs = std::filesystem;
namespace pb = google::protobuf;

using Channel = std::shared_ptr<grpc::Channel>;

void Expect(bool holds, const std::string& otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
}

std::string Text(const grpc::Status& status) {
  return "status " + std::to_string(status.error_code()) + ": " +
         status.error_message();
}

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  Expect(file.is_open(), "cannot read " + path.string());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void WriteFile(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  Expect(file.flush().good(), "cannot write " + path.string());
}

std::unique_ptr<pb::Message> NewMessage(const std::string& type) {
  const pb::Descriptor* descriptor =
      pb::DescriptorPool::generated_pool()->FindMessageTypeByName(type);
  Expect(descriptor != nullptr, "no message " + type);
  return std::unique_ptr<pb::Message>(
      pb::MessageFactory::generated_factory()->GetPrototype(descriptor)->New());
}

pb::Struct JsonObject(const std::string& json) {
  pb::Struct object;
  const auto status = pb::util::JsonStringToMessage(json, &object);
  Expect(status.ok(), status.ToString());
  return object;
}

std::string ProtoJson(const pb::Message& message) {
  std::string json;
  const auto status = pb::util::MessageToJsonString(message, &json);
  Expect(status.ok(), status.ToString());
  return json;
}

void CheckItem(v1::ConversionService::Stub& service, const std::string& variant,
               const std::string& in, const std::string& out,
               const pb::Message& item) {
  v1::ParseCallRequest parse;
  parse.set_json(ReadFile(in + ".json"));
  parse.set_variant(variant);
  v1::ParseCallResponse parsed;
  grpc::ClientContext parse_context;
  grpc::Status status = service.ParseCall(&parse_context, parse, &parsed);
  Expect(status.ok(), Text(status));
  WriteFile(out + ".parsed.binpb", parsed.call().SerializeAsString());

  v1::FormatCallRequest format;
  format.mutable_call()->CopyFrom(item);
  v1::FormatCallResponse formatted;
  grpc::ClientContext format_context;
  status = service.FormatCall(&format_context, format, &formatted);
  Expect(status.ok(), Text(status));
  WriteFile(out + ".json", formatted.json());
}

void CheckCase(v1::ConversionService::Stub& service, const fs::path& name,
               const std::string& in, const std::string& out) {
  pb::Struct expected = JsonObject(ReadFile(in + ".expected.json"));
  auto& keys = *expected.mutable_fields();
  const auto message = NewMessage(keys["message"].string_value());
  Expect(message->ParseFromString(ReadFile(in + ".binpb")),
         "not such a message");
  WriteFile(out + ".binpb", message->SerializeAsString());
  if (*name.begin() == "items") {
    CheckItem(service, name.parent_path().filename().string(), in, out,
              *message);
  }
  const std::string json = ProtoJson(*message);
  Expect(pb::util::MessageDifferencer::Equals(JsonObject(json),
                                              keys["fields"].struct_value()),
         "ProtoJSON is " + json);
}

constexpr char kWrongId[] = R"({"type":"image_generation_call","id":5})";

// Whether it is the answer to item number n.
bool IsRight(const v1::ConversionResult& result, uint32_t n, uint32_t wrong) {
  if (result.index() != n) return false;
  if (n == wrong) {
    return result.error().reason() == v1::ERROR_REASON_WRONG_TYPE &&
           result.error().pointer() == "/id";
  }
  const auto& call = result.call().output_image_generation_call();
  return call.id() == "ig_" + std::to_string(n) &&
         call.result().image() == "hi";
}

void CheckConvertCalls(const Channel& channel) {
  constexpr uint32_t kItems = 10'000;
  constexpr uint32_t kWrong = 5'000;
  std::stringstream lines;
  for (uint32_t n = 0; n < kItems; ++n) {
    if (n == kWrong) {
      lines << kWrongId << '\n';
    } else {
      lines << R"({"type":"image_generation_call","id":"ig_)" << n
            << R"(","result":"aGk="})" << '\n';
    }
  }
  uint32_t answers = 0;
  uint32_t right = 0;
  ConvertLines(*v1::ConversionService::NewStub(channel), lines,
               [&](const v1::ConversionResult& result) {
                 right += IsRight(result, answers++, kWrong);
               });
  Expect(answers == kItems && right == kItems,
         std::to_string(answers) + " answers, " + std::to_string(right) +
             " right");
}

// A request with orders for the embedded backend.
v1::ImageRequest Ordered(const std::string& embedded) {
  v1::ImageRequest request;
  request.set_prompt("a red fox in the snow");
  v1::ExtraField* extra = request.add_extra_fields();
  extra->set_name("embedded");
  extra->set_json(embedded);
  return request;
}

constexpr char kLargeImage[] = R"({"image_bytes":20000000})";

void CheckStreamImage(const Channel& channel) {
  auto service = v1::ImageGenerationService::NewStub(channel);
  const size_t size = StreamImage(*service, Ordered(kLargeImage)).size();
  Expect(size == 20'000'000, std::to_string(size) + " bytes");
}

template <typename Detail>
Detail FindDetail(const google::rpc::Status& status) {
  Detail detail;
  const auto& details = status.details();
  Expect(std::any_of(details.begin(), details.end(),
                     [&](const pb::Any& any) { return any.UnpackTo(&detail); }),
         "a detail is missing");
  return detail;
}

void CheckErrorDetails(const Channel& channel) {
  v1::ParseCallRequest request;
  request.set_json(kWrongId);
  v1::ParseCallResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      v1::ConversionService::NewStub(channel)->ParseCall(&context, request,
                                                         &response);
  Expect(status.error_code() == grpc::INVALID_ARGUMENT, Text(status));
  google::rpc::Status details;
  Expect(grpc::ExtractErrorDetails(status, &details).ok(), "no details");
  const auto bad_request = FindDetail<google::rpc::BadRequest>(details);
  Expect(bad_request.field_violations_size() == 1 &&
             bad_request.field_violations(0).field() == "/id",
         bad_request.ShortDebugString());
  const auto info = FindDetail<google::rpc::ErrorInfo>(details);
  Expect(info.reason() == "WRONG_TYPE" && info.domain() == "imagecall",
         info.ShortDebugString());
}

void CheckDeadline(const Channel& channel) {
  v1::GenerateImageRequest request;
  *request.mutable_request() = Ordered(R"({"delay_seconds":60})");
  v1::GenerateImageResponse response;
  grpc::ClientContext context;
  const auto start = std::chrono::system_clock::now();
  context.set_deadline(start + std::chrono::milliseconds(500));
  const grpc::Status status =
      v1::ImageGenerationService::NewStub(channel)->GenerateImage(
          &context, request, &response);
  Expect(status.error_code() == grpc::DEADLINE_EXCEEDED, Text(status));
  Expect(std::chrono::system_clock::now() - start < std::chrono::seconds(2),
         "late");
}

void CheckHealth(const Channel& channel) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(v1::ImageGenerationService::service_full_name());
  grpc::health::v1::HealthCheckResponse response;
  grpc::ClientContext context;
  const grpc::Status status = grpc::health::v1::Health::NewStub(channel)->Check(
      &context, request, &response);
  Expect(status.ok(), Text(status));
  Expect(response.status() == grpc::health::v1::HealthCheckResponse::SERVING,
         "not serving");
}

// Generates images at once over a new connection.
void CheckManyCalls(const std::string& address) {
  constexpr int kCalls = 1'000;
  grpc::ChannelArguments own_connection;
  own_connection.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto service = v1::ImageGenerationService::NewStub(grpc::CreateCustomChannel(
      address, grpc::InsecureChannelCredentials(), own_connection));
  v1::GenerateImageRequest request;
  *request.mutable_request() = Ordered(R"({"delay_seconds":0.1})");
  std::vector<grpc::ClientContext> contexts(kCalls);
  std::vector<v1::GenerateImageResponse> responses(kCalls);
  std::vector<std::promise<grpc::Status>> outcomes(kCalls);
  for (int n = 0; n < kCalls; ++n) {
    contexts[n].set_deadline(std::chrono::system_clock::now() +
                             std::chrono::minutes(1));
    service->async()->GenerateImage(
        &contexts[n], &request, &responses[n],
        [&outcome = outcomes[n]](grpc::Status s) { outcome.set_value(s); });
  }
  std::vector<grpc::Status> statuses;
  for (auto& outcome : outcomes) {
    statuses.push_back(outcome.get_future().get());
  }
  for (const grpc::Status& status : statuses) Expect(status.ok(), Text(status));
}

void CheckCancellation(const Channel& channel) {
  v1::StreamImageRequest request;
  *request.mutable_request() = Ordered(kLargeImage);
  auto service = v1::ImageGenerationService::NewStub(channel);
  grpc::ClientContext context;
  auto stream = service->StreamImage(&context, request);
  v1::StreamImageResponse part;
  while (stream->Read(&part)) {
    if (part.has_chunk()) context.TryCancel();
  }
  const grpc::Status status = stream->Finish();
  Expect(status.error_code() == grpc::CANCELLED, Text(status));
  CheckHealth(channel);
}

// Calls a server that answers for its health once the stream is cancelled.
void CheckCancellationWhenDamaged(const std::string& address) {
  const auto channel = Connect(address);
  auto service = v1::ImageGenerationService::NewStub(channel);
  std::string reason;
  try {
    StreamImage(*service, Ordered("{}"));
  } catch (const std::exception& error) {
    reason = error.what();
  }
  Expect(reason == "a chunk is lost", "the error is \"" + reason + "\"");
  CheckHealth(channel);
}

void Report(const std::string& name, const std::function<void()>& check) {
  std::string outcome = "ok";
  try {
    check();
  } catch (const std::exception& error) {
    outcome = error.what();
    std::replace(outcome.begin(), outcome.end(), '\n', ' ');
  }
  std::cout << name << '\t' << outcome << '\n' << std::flush;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: interop ADDRESS CASES OUT DAMAGED\n";
    return 2;
  }
  const std::string address = argv[1];
  const fs::path cases = argv[2];
  const fs::path out = argv[3];
  const auto channel = Connect(address);
  const auto service = v1::ConversionService::NewStub(channel);

  std::vector<fs::path> names;
  for (const auto& entry : fs::recursive_directory_iterator(cases)) {
    if (entry.path().extension() == ".binpb") {
      names.push_back(
          entry.path().lexically_relative(cases).replace_extension());
    }
  }
  std::sort(names.begin(), names.end());
  for (const fs::path& name : names) {
    Report(name.generic_string(), [&] {
      CheckCase(*service, name, (cases / name).string(), (out / name).string());
    });
  }
  Report("ConvertCalls", [&] { CheckConvertCalls(channel); });
  Report("StreamImage", [&] { CheckStreamImage(channel); });
  Report("error details", [&] { CheckErrorDetails(channel); });
  Report("deadline", [&] { CheckDeadline(channel); });
  Report("cancellation", [&] { CheckCancellation(channel); });
  Report("cancellation when damaged",
         [&] { CheckCancellationWhenDamaged(argv[4]); });
  Report("many calls", [&] { CheckManyCalls(address); });
  Report("health", [&] { CheckHealth(channel); });
}
