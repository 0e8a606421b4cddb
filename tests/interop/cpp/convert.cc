// Converts the items of a file, a line each: convert ADDRESS FILE
// README: begin
#include <exception>
#include <fstream>
#include <iostream>

#include "client.h"

void Report(const v1::ConversionResult& result) {
  std::cout << result.index() << ": ";
  if (result.has_error()) {
    const v1::ConversionError& error = result.error();
    std::cout << v1::ErrorReason_Name(error.reason()) << " at "
              << error.pointer() << ": " << error.message() << '\n';
    return;
  }
  const auto& call = result.call().output_image_generation_call();
  std::cout << call.id() << ", " << call.result().image().size() << " bytes\n";
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: convert ADDRESS FILE\n";
    return 2;
  }
  try {
    std::ifstream lines(argv[2], std::ios::binary);
    auto service = v1::ConversionService::NewStub(Connect(argv[1]));
    ConvertLines(*service, lines, Report);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
// README: end
