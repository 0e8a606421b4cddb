// README: begin
#include "client.h"

#include <grpcpp/support/error_details.h>
#include <openssl/evp.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <utility>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace {

constexpr size_t kBatch = 65'536;  // bytes of a message with many items

std::string Sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  return std::string(digest, digest + size);
}

// Part of a value that has arrived.
class Value {
 public:
  // Returns the whole value with its last chunk, and nothing before.
  std::optional<std::string> Add(const v1::Chunk& chunk) {
    if (chunk.offset() != bytes_.size()) {
      throw std::runtime_error("a chunk is lost");
    }
    bytes_ += chunk.data();
    if (!chunk.has_end()) return std::nullopt;
    if (chunk.end().size() != bytes_.size() ||
        chunk.end().sha256() != Sha256(bytes_)) {
      throw std::runtime_error("the value is damaged");
    }
    return std::exchange(bytes_, {});
  }

  void RequireComplete() const {
    if (!bytes_.empty()) throw std::runtime_error("a chunk is lost");
  }

 private:
  std::string bytes_;
};

// Ends a call, also where an exception is thrown.
struct Canceller {
  grpc::ClientContext& context;
  ~Canceller() { context.TryCancel(); }
};

void RequireOk(const grpc::Status& status) {
  if (!status.ok()) throw std::runtime_error(Explain(status));
}

void RequireCompleted(const std::optional<v1::StreamEnd>& end,
                      const std::string& image) {
  if (!end) throw std::runtime_error("the stream has no end");
  if (end->ending() == v1::STREAM_ENDING_COMPLETED && !image.empty()) return;
  const v1::ImageResponse& response = end->response();
  std::string text = "no image: " + v1::StreamEnding_Name(end->ending());
  for (const std::string& reason :
       {response.error().message(), response.incomplete_details().reason(),
        response.refusal(), response.output_text()}) {
    if (!reason.empty()) throw std::runtime_error(text + ": " + reason);
  }
  throw std::runtime_error(text);
}

using Conversions =
    grpc::ClientReaderWriter<v1::ConvertCallsRequest, v1::ConvertCallsResponse>;

void Send(Conversions& stream, std::istream& lines) {
  v1::ConvertCallsRequest request;
  size_t size = 0;
  for (std::string line; std::getline(lines, line);) {
    v1::Chunk* chunk = request.add_conversions()->mutable_json_chunk();
    chunk->mutable_end()->set_size(line.size());
    chunk->mutable_end()->set_sha256(Sha256(line));
    size += line.size();
    chunk->set_data(std::move(line));
    if (size < kBatch) continue;
    if (!stream.Write(request)) return;  // Finish returns the reason
    request.Clear();
    size = 0;
  }
  if (stream.Write(request)) stream.WritesDone();
}

}  // namespace

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  const char* authorities = std::getenv("IMAGECALL_TLS_CA");
  if (!authorities) {
    return grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  }
  std::ifstream file(authorities);
  grpc::SslCredentialsOptions options;  // as it is: CAs of the system
  options.pem_root_certs.assign(std::istreambuf_iterator<char>(file), {});
  const char* token = std::getenv("IMAGECALL_TOKEN");
  auto bearer = grpc::AccessTokenCredentials(token ? token : "");
  return grpc::CreateChannel(address,
                             grpc::CompositeChannelCredentials(
                                 grpc::SslCredentials(options), bearer));
}

std::string StreamImage(v1::ImageGenerationService::Stub& service,
                        const v1::ImageRequest& image_request) {
  v1::StreamImageRequest request;
  *request.mutable_request() = image_request;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::minutes(2));
  auto stream = service.StreamImage(&context, request);
  Canceller canceller{context};
  Value value;
  std::string image;
  std::optional<v1::StreamEnd> end;
  for (v1::StreamImageResponse part; stream->Read(&part);) {
    if (part.has_chunk()) {
      auto whole = value.Add(part.chunk());
      // Others are partial images, or long texts.
      if (part.chunk().end().final_image()) image = *std::move(whole);
    } else {
      value.RequireComplete();
      if (part.has_end()) end = part.end();  // or an event reports progress
    }
  }
  RequireOk(stream->Finish());
  RequireCompleted(end, image);
  return image;
}

void ConvertLines(
    v1::ConversionService::Stub& service, std::istream& lines,
    const std::function<void(const v1::ConversionResult&)>& each) {
  grpc::ClientContext context;
  auto stream = service.ConvertCalls(&context);
  // While the results are read: the server waits for their reader.
  auto sending = std::async(std::launch::async, [&] {
    try {
      Send(*stream, lines);
    } catch (...) {
      context.TryCancel();
      throw;  // to get, below
    }
  });
  Canceller canceller{context};
  Value value;
  for (v1::ConvertCallsResponse response; stream->Read(&response);) {
    for (v1::ConversionResult& result : *response.mutable_results()) {
      if (result.has_call_chunk()) {
        const auto whole = value.Add(result.call_chunk());
        if (!whole) continue;
        if (!result.mutable_call()->ParseFromString(*whole)) {
          throw std::runtime_error("the value is no item");
        }
      }
      each(result);
    }
  }
  sending.get();
  RequireOk(stream->Finish());
  value.RequireComplete();
}

std::string Explain(const grpc::Status& status) {
  std::string text = status.error_message();
  google::rpc::Status details;
  if (!grpc::ExtractErrorDetails(status, &details).ok()) return text;
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::RetryInfo retry;
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&info)) {
      text += ", reason " + info.reason();
    } else if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        text += ", at " + violation.field();
      }
    } else if (detail.UnpackTo(&retry)) {
      const auto seconds = retry.retry_delay().seconds();
      text += ", retry after " + std::to_string(seconds) + " s";
    }
  }
  return text;
}
// README: end
