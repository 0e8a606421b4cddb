// Calls of imagecall, with gRPC's own library.
#pragma once

// README: begin
#include <grpcpp/grpcpp.h>

#include <functional>
#include <istream>
#include <memory>
#include <string>

#include "imagecall/v1/conversion_service.grpc.pb.h"
#include "imagecall/v1/image_generation_service.grpc.pb.h"

namespace v1 = imagecall::v1;

// Calls over TLS, with a token, if the environment names a CA file.
std::shared_ptr<grpc::Channel> Connect(const std::string& address);

// Returns the image, of any size. Throws std::runtime_error.
std::string StreamImage(v1::ImageGenerationService::Stub& service,
                        const v1::ImageRequest& request);

// Converts items, a line of JSON each. The lines are sent as bytes, in a chunk
// each: one that is not UTF-8 is refused alone, where in a string it would end
// the stream. Throws std::runtime_error.
void ConvertLines(v1::ConversionService::Stub& service, std::istream& lines,
                  const std::function<void(const v1::ConversionResult&)>& each);

// Returns the message of an error, with the details that came with it.
std::string Explain(const grpc::Status& status);
// README: end
