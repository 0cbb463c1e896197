#ifndef BOXOFFICE_CLIENT_SCENARIO_H_
#define BOXOFFICE_CLIENT_SCENARIO_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "boxoffice/v1/concert_service.grpc.pb.h"
#include "boxoffice/v1/payment_service.grpc.pb.h"
#include "boxoffice/v1/queue_service.grpc.pb.h"
#include "boxoffice/v1/reservation_service.grpc.pb.h"
#include "boxoffice/v1/wallet_service.grpc.pb.h"

namespace client {

namespace pb = boxoffice::v1;

// The server did not do what the scenario says.
class CheckFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One user's way through the services, over one channel.
class Scenario {
 public:
  explicit Scenario(const std::shared_ptr<grpc::Channel>& channel);

  // Takes the steps of ../SCENARIO.md. Throws CheckFailed or CallFailed.
  void Play();

 private:
  using Seats = std::vector<pb::Seat>;

  void OpenWallet();
  void ReadViolations();
  pb::QueueToken TakeToken();
  void ComeTooEarly(const pb::QueueToken& token);
  void WaitForAdmission(const pb::QueueToken& token);
  grpc::Status Watch(const pb::QueueToken& token, grpc::ClientContext& context);
  Seats ChooseSeats(const pb::QueueToken& token);
  pb::QueueToken LetRivalHold(const pb::Seat& seat);
  pb::Reservation Hold(const pb::QueueToken& token, const Seats& seats);
  void PayFromEmptyWallet(const pb::QueueToken& token, const pb::Reservation& reservation);
  void Charge(int64_t amount);
  pb::Payment Pay(const pb::QueueToken& token, const pb::Reservation& reservation);
  void LookAt(const pb::Payment& payment);
  void Refund(const pb::Payment& payment);
  void HoldBest(const pb::QueueToken& rival_token, const std::string& date);
  void LeaveQueue(const pb::QueueToken& rival_token);

  void CheckBalance(int64_t expected);
  void CheckLedger(int64_t expected);
  pb::ListPerformancesRequest NewListPerformances() const;
  pb::PayRequest NewPay(const pb::Reservation& reservation) const;

  std::unique_ptr<pb::QueueService::Stub> queue_;
  std::unique_ptr<pb::ConcertService::Stub> concerts_;
  std::unique_ptr<pb::ReservationService::Stub> reservations_;
  std::unique_ptr<pb::WalletService::Stub> wallets_;
  std::unique_ptr<pb::PaymentService::Stub> payments_;
  std::string user_id_;
  bool asked_for_restart_ = false;
};

}  // namespace client

#endif  // BOXOFFICE_CLIENT_SCENARIO_H_
