// Buys two seats from boxoffice and gives them back, as ../SCENARIO.md tells: `client 127.0.0.1:50051`.

#include <grpcpp/grpcpp.h>

#include <fstream>
#include <iostream>
#include <sstream>

#include "failure.h"
#include "scenario.h"

int main(int argc, char** argv) {
  const char* address = argc > 1 ? argv[1] : "127.0.0.1:50051";
  // The deadlines and retries of all calls.
  std::ostringstream service_config;
  service_config << std::ifstream(SERVICE_CONFIG).rdbuf();
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(service_config.str());

  try {
    client::Scenario(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)).Play();
    return 0;
  } catch (const client::CheckFailed& failed) {
    std::cerr << "check failed: " << failed.what() << std::endl;
  } catch (const client::CallFailed& failed) {
    std::cerr << "a call failed: " << failed.what() << std::endl;
  }
  return 1;
}
