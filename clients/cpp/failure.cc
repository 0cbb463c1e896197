#include "failure.h"

#include <iomanip>
#include <iostream>
#include <sstream>
#include <thread>

#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace client {
namespace {

constexpr std::chrono::seconds kPatience{30};

const char* CodeName(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::ALREADY_EXISTS:
      return "ALREADY_EXISTS";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    default:
      return "UNKNOWN";
  }
}

}  // namespace

Failure::Failure(const grpc::Status& status) : code(status.error_code()), message(status.error_message()) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    google::rpc::BadRequest bad_request;
    if (detail.UnpackTo(&info)) {
      reason = info.reason();
      metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (detail.UnpackTo(&retry)) {
      using google::protobuf::util::TimeUtil;
      retry_delay = std::chrono::milliseconds(TimeUtil::DurationToMilliseconds(retry.retry_delay()));
    } else if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        violations[violation.field()] = violation.description();
      }
    }
  }
}

std::string Failure::ToString() const {
  return std::string(CodeName(code)) + " " + (reason.empty() ? "(no reason)" : reason) + ": " + message;
}

void Patiently(const std::function<void()>& call) {
  const auto give_up_at = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    std::chrono::milliseconds delay;
    try {
      return call();
    } catch (const CallFailed& failed) {
      const Failure& failure = failed.failure();
      if (!failure.retry_delay || std::chrono::steady_clock::now() + *failure.retry_delay > give_up_at) throw;
      delay = *failure.retry_delay;
      std::cout << "   waiting " << Seconds(delay) << ", since the call failed with " << failure.reason << std::endl;
    }
    std::this_thread::sleep_for(delay);
  }
}

std::string Seconds(std::chrono::milliseconds delay) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << delay.count() / 1000.0 << " s";
  return text.str();
}

}  // namespace client
