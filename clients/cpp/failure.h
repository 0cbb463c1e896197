#ifndef BOXOFFICE_CLIENT_FAILURE_H_
#define BOXOFFICE_CLIENT_FAILURE_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

namespace client {

// A failed call as boxoffice describes it: programs branch on the reason, people read the message.
struct Failure {
  explicit Failure(const grpc::Status& status);

  std::string ToString() const;

  grpc::StatusCode code;
  std::string message;
  std::string reason;
  std::map<std::string, std::string> metadata;
  // How long to wait before the same call may succeed; nothing where waiting does not help.
  std::optional<std::chrono::milliseconds> retry_delay;
  // What is wrong with each field of an ill-formed request.
  std::map<std::string, std::string> violations;
};

// Thrown by a call that fails.
class CallFailed : public std::runtime_error {
 public:
  explicit CallFailed(Failure failure) : std::runtime_error(failure.ToString()), failure_(std::move(failure)) {}

  const Failure& failure() const { return failure_; }

 private:
  Failure failure_;
};

// Makes a call, again and again while its failure says when to retry, for at most 30 seconds.
void Patiently(const std::function<void()>& call);

// "2.0 s".
std::string Seconds(std::chrono::milliseconds delay);

}  // namespace client

#endif  // BOXOFFICE_CLIENT_FAILURE_H_
