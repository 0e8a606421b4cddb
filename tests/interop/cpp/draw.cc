// Draws a fox: draw ADDRESS FILE
// README: begin
#include <exception>
#include <fstream>
#include <iostream>

#include "client.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: draw ADDRESS FILE\n";
    return 2;
  }
  try {
    auto service = v1::ImageGenerationService::NewStub(Connect(argv[1]));
    v1::ImageRequest request;
    request.set_prompt("a red fox in the snow");
    const std::string image = StreamImage(*service, request);
    std::ofstream file(argv[2], std::ios::binary);
    file.exceptions(std::ios::failbit | std::ios::badbit);
    file << image << std::flush;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
// README: end
