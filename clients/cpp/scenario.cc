#include "scenario.h"

#include <google/protobuf/util/message_differencer.h>
#include <uuid/uuid.h>

#include <algorithm>
#include <chrono>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <thread>

#include "failure.h"

namespace client {
namespace {

using google::protobuf::util::MessageDifferencer;

constexpr char kConcertCode[] = "IU-2034";
constexpr std::chrono::minutes kWatchTimeout{1};
// How long to wait before a broken stream is opened again, where the server did not say.
constexpr std::chrono::milliseconds kWatchRetryDelay{1000};

template <typename... Values>
std::string Sentence(const Values&... values) {
  std::ostringstream text;
  (text << ... << values);
  return text.str();
}

template <typename... Values>
void Check(bool holds, const Values&... values) {
  if (!holds) throw CheckFailed(Sentence(values...));
}

template <typename... Values>
void Tell(int step, const Values&... values) {
  std::cout << std::setw(2) << step << " " << Sentence(values...) << std::endl;
}

// Shows the queue token to the server.
void Bear(const pb::QueueToken& token, grpc::ClientContext& context) {
  context.AddMetadata("authorization", "Bearer " + token.token());
}

// Makes a call, with the token if there is one. Throws CallFailed.
template <typename Stub, typename Request, typename Response>
Response Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
              const Request& request, const pb::QueueToken* token = nullptr) {
  grpc::ClientContext context;
  if (token != nullptr) Bear(*token, context);
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) throw CallFailed(Failure(status));
  return response;
}

// Makes a call that has to fail for this reason, and returns the failure.
template <typename F>
Failure Refused(const std::string& reason, F call) {
  try {
    call();
  } catch (const CallFailed& failed) {
    const Failure& failure = failed.failure();
    Check(failure.reason == reason, "a call should fail with ", reason, ", and failed with ", failure.ToString());
    return failure;
  }
  throw CheckFailed("a call should fail with " + reason + ", and succeeded");
}

std::string Find(const std::map<std::string, std::string>& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? "nothing" : found->second;
}

std::string NewId() {
  uuid_t id;
  char text[UUID_STR_LEN];
  uuid_generate_random(id);
  uuid_unparse_lower(id, text);
  return text;
}

pb::HoldSeatsRequest NewHold(const std::string& user_id, const std::vector<pb::Seat>& seats) {
  pb::HoldSeatsRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(user_id);
  request.set_date(seats.front().date());
  for (const pb::Seat& seat : seats) request.add_seat_numbers(seat.seat_number());
  request.set_request_id(NewId());
  return request;
}

}  // namespace

Scenario::Scenario(const std::shared_ptr<grpc::Channel>& channel)
    : queue_(pb::QueueService::NewStub(channel)),
      concerts_(pb::ConcertService::NewStub(channel)),
      reservations_(pb::ReservationService::NewStub(channel)),
      wallets_(pb::WalletService::NewStub(channel)),
      payments_(pb::PaymentService::NewStub(channel)),
      user_id_(NewId()) {}

void Scenario::Play() {
  OpenWallet();
  ReadViolations();
  const pb::QueueToken token = TakeToken();
  ComeTooEarly(token);
  WaitForAdmission(token);
  const Seats seats = ChooseSeats(token);
  const pb::QueueToken rival_token = LetRivalHold(seats.front());
  const pb::Reservation reservation = Hold(token, seats);
  PayFromEmptyWallet(token, reservation);
  Charge(reservation.total_price());
  const pb::Payment payment = Pay(token, reservation);
  LookAt(payment);
  Refund(payment);
  HoldBest(rival_token, reservation.date());
  LeaveQueue(rival_token);
}

void Scenario::OpenWallet() {
  pb::OpenWalletRequest request;
  request.set_user_id(user_id_);
  const auto opened = Call(*wallets_, &pb::WalletService::Stub::OpenWallet, request);
  const pb::Wallet& wallet = opened.wallet();
  Check(wallet.balance() == 0, "a new wallet should be empty, and holds ", wallet.balance());
  const auto again = Call(*wallets_, &pb::WalletService::Stub::OpenWallet, request);
  Check(MessageDifferencer::Equals(again, opened), "opening a wallet again should return the same wallet");
  Tell(1, "opened a wallet in ", wallet.currency_code(), " for user ", user_id_);
}

void Scenario::ReadViolations() {
  pb::ChargeWalletRequest request;
  request.set_user_id("nobody");
  request.set_amount(-1);
  const auto charge = [&] { Call(*wallets_, &pb::WalletService::Stub::ChargeWallet, request); };
  const auto violations = Refused("INVALID_ARGUMENT", charge).violations;
  Check(violations.size() == 2 && violations.count("user_id") == 1 && violations.count("amount") == 1,
        "user_id and amount are wrong, not ", violations.size(), " fields");
  Tell(2, "read what is wrong with a request: amount ", violations.at("amount"));
}

pb::QueueToken Scenario::TakeToken() {
  pb::IssueTokenRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(user_id_);
  const auto issued = Call(*queue_, &pb::QueueService::Stub::IssueToken, request);
  const pb::QueueToken& token = issued.token();
  Check(token.state() == pb::QUEUE_STATE_WAITING, "a new token should wait");
  const auto again = Call(*queue_, &pb::QueueService::Stub::IssueToken, request);
  Check(MessageDifferencer::Equals(again, issued), "a second IssueToken should return the first token");
  Tell(3, "took token number ", token.queue_number(), " of ", kConcertCode);
  return token;
}

void Scenario::ComeTooEarly(const pb::QueueToken& token) {
  const auto list = [&] {
    Call(*concerts_, &pb::ConcertService::Stub::ListPerformances, NewListPerformances(), &token);
  };
  const Failure failure = Refused("NOT_ADMITTED", list);
  const std::string named = Find(failure.metadata, "queue_number");
  Check(named == std::to_string(token.queue_number()), "NOT_ADMITTED should name the token's number, not ", named);
  Check(failure.retry_delay && failure.retry_delay->count() > 0, "NOT_ADMITTED should say when to try again");
  Tell(4, "came too early: try again in ", Seconds(*failure.retry_delay));
}

// Watches the token until it is admitted. A stream that breaks is opened again: the place is kept.
void Scenario::WaitForAdmission(const pb::QueueToken& token) {
  const auto deadline = std::chrono::system_clock::now() + kWatchTimeout;
  for (int breaks = 0;; ++breaks) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    const grpc::Status status = Watch(token, context);
    if (status.ok()) {
      Check(breaks > 0, "the token was admitted before the server was restarted");
      Tell(5, "admitted, after the stream broke (", breaks, ")");
      return;
    }
    const Failure failure(status);
    if (failure.code != grpc::StatusCode::UNAVAILABLE && !failure.retry_delay) throw CallFailed(failure);
    std::this_thread::sleep_for(failure.retry_delay.value_or(kWatchRetryDelay));
  }
}

// Reads one stream until the token is admitted, or returns the failure that ends the stream.
grpc::Status Scenario::Watch(const pb::QueueToken& token, grpc::ClientContext& context) {
  pb::WatchPositionRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(user_id_);
  Bear(token, context);
  const auto stream = queue_->WatchPosition(&context, request);
  pb::WatchPositionResponse message;
  while (stream->Read(&message)) {
    const pb::QueuePosition& position = message.position();
    Check(position.queue_number() == token.queue_number(), "the token's number should stay the same");
    if (position.state() == pb::QUEUE_STATE_ACTIVE) {
      context.TryCancel();
      return grpc::Status::OK;
    }
    Check(position.state() == pb::QUEUE_STATE_WAITING, "the token should wait until it is admitted, and is ",
          pb::QueueState_Name(position.state()));
    if (!asked_for_restart_) {
      asked_for_restart_ = true;
      Tell(5, "waiting at position ", position.position());
      std::cout << "restart the server" << std::endl;
    }
  }
  const grpc::Status status = stream->Finish();
  Check(!status.ok(), "the stream ended before the token was admitted");
  return status;
}

Scenario::Seats Scenario::ChooseSeats(const pb::QueueToken& token) {
  const auto listed = Call(*concerts_, &pb::ConcertService::Stub::ListPerformances, NewListPerformances(), &token);
  Check(listed.performances_size() > 0, "a performance should have seats");
  const pb::Performance& performance = listed.performances(0);
  pb::ListSeatsRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(user_id_);
  request.set_date(performance.date());
  const auto shown = Call(*concerts_, &pb::ConcertService::Stub::ListSeats, request, &token);
  Check(shown.seats_size() == performance.seat_count(), "ListSeats should list ", performance.seat_count(),
        " seats, not ", shown.seats_size());
  Seats available;
  std::copy_if(shown.seats().begin(), shown.seats().end(), std::back_inserter(available),
               [](const pb::Seat& seat) { return seat.state() == pb::SEAT_STATE_AVAILABLE; });
  const int count = static_cast<int>(available.size());
  Check(count == performance.available_seat_count() && count >= 2, "ListSeats should list ",
        performance.available_seat_count(), " available seats, not ", count);
  available.resize(2);
  Tell(6, "chose seats ", available[0].seat_number(), " and ", available[1].seat_number(), " of ", count, " on ",
       performance.date());
  return available;
}

// Lets another user hold one of the chosen seats, as soon as it is admitted.
pb::QueueToken Scenario::LetRivalHold(const pb::Seat& seat) {
  const std::string rival_id = NewId();
  pb::OpenWalletRequest open;
  open.set_user_id(rival_id);
  Call(*wallets_, &pb::WalletService::Stub::OpenWallet, open);
  pb::IssueTokenRequest issue;
  issue.set_concert_code(kConcertCode);
  issue.set_user_id(rival_id);
  const pb::QueueToken token = Call(*queue_, &pb::QueueService::Stub::IssueToken, issue).token();
  const pb::HoldSeatsRequest hold = NewHold(rival_id, {seat});
  Patiently([&] { Call(*reservations_, &pb::ReservationService::Stub::HoldSeats, hold, &token); });
  Tell(7, "a rival holds seat ", seat.seat_number());
  return token;
}

pb::Reservation Scenario::Hold(const pb::QueueToken& token, const Seats& seats) {
  const pb::HoldSeatsRequest request = NewHold(user_id_, seats);
  pb::HoldSeatsResponse held;
  const auto hold = [&] { held = Call(*reservations_, &pb::ReservationService::Stub::HoldSeats, request, &token); };
  const std::string taken = Find(Refused("SEAT_HELD", hold).metadata, "seat_numbers");
  const std::string rival_seat = std::to_string(seats.front().seat_number());
  Check(taken == rival_seat, "SEAT_HELD should name seat ", rival_seat, ", not ", taken);
  Patiently(hold);
  const pb::Reservation reservation = held.reservation();
  Check(reservation.state() == pb::RESERVATION_STATE_HELD, "the reservation should be HELD");
  const int64_t price = seats[0].price() + seats[1].price();
  Check(reservation.total_price() == price, "two seats cost ", price, ", not ", reservation.total_price());
  hold();
  Check(MessageDifferencer::Equals(held.reservation(), reservation),
        "a hold with the same request_id should return the same reservation");
  Tell(8, "hold reservation ", reservation.reservation_id(), " for ", price);
  return reservation;
}

void Scenario::PayFromEmptyWallet(const pb::QueueToken& token, const pb::Reservation& reservation) {
  const auto request = NewPay(reservation);
  const auto pay = [&] { Call(*payments_, &pb::PaymentService::Stub::Pay, request, &token); };
  const auto metadata = Refused("INSUFFICIENT_BALANCE", pay).metadata;
  const std::string balance = Find(metadata, "balance");
  const std::string price = Find(metadata, "price");
  Check(balance == "0" && price == std::to_string(reservation.total_price()), "the wallet holds 0 of ",
        reservation.total_price(), ", not ", balance, " of ", price);
  Tell(9, "could not pay: the wallet holds ", balance, " of ", price);
}

void Scenario::Charge(int64_t amount) {
  pb::ChargeWalletRequest request;
  request.set_user_id(user_id_);
  request.set_amount(amount);
  request.set_request_id(NewId());
  const auto charge = [&] { return Call(*wallets_, &pb::WalletService::Stub::ChargeWallet, request); };
  const auto charged = charge();
  Check(charged.balance() == amount, "the wallet should hold ", amount, ", not ", charged.balance());
  Check(MessageDifferencer::Equals(charge(), charged), "a charge with the same request_id should be booked once");
  request.set_amount(amount + 1);
  Refused("REQUEST_ID_CONFLICT", charge);
  Tell(10, "charged the wallet with ", amount, ", once");
}

pb::Payment Scenario::Pay(const pb::QueueToken& token, const pb::Reservation& reservation) {
  const pb::Payment payment = Call(*payments_, &pb::PaymentService::Stub::Pay, NewPay(reservation), &token).payment();
  Check(payment.state() == pb::PAYMENT_STATE_PAID, "the payment should be PAID");
  Check(payment.price() == reservation.total_price(), reservation.total_price(), " is due, not ", payment.price());
  const bool same_seats =
      std::equal(reservation.seats().begin(), reservation.seats().end(), payment.seat_numbers().begin(),
                 payment.seat_numbers().end(),
                 [](const pb::ReservedSeat& seat, int number) { return seat.seat_number() == number; });
  Check(same_seats, "the seats of the reservation should be paid for");
  CheckBalance(0);
  Tell(11, "paid ", payment.price(), " for seats ", payment.seat_numbers(0), " and ", payment.seat_numbers(1));
  return payment;
}

void Scenario::LookAt(const pb::Payment& payment) {
  pb::GetPaymentRequest request;
  request.set_user_id(user_id_);
  request.set_payment_id(payment.payment_id());
  const auto shown = Call(*payments_, &pb::PaymentService::Stub::GetPayment, request);
  Check(MessageDifferencer::Equals(shown.payment(), payment), "GetPayment should show the payment as it was paid");
  Tell(12, "looked at payment ", payment.payment_id());
}

void Scenario::Refund(const pb::Payment& payment) {
  pb::RefundPaymentRequest request;
  request.set_user_id(user_id_);
  request.set_payment_id(payment.payment_id());
  request.set_request_id(NewId());
  const auto refunded = Call(*payments_, &pb::PaymentService::Stub::RefundPayment, request);
  Check(refunded.payment().state() == pb::PAYMENT_STATE_REFUNDED, "the payment should be REFUNDED");
  CheckBalance(payment.price());
  CheckLedger(payment.price());
  Tell(13, "got ", payment.price(), " back");
}

void Scenario::HoldBest(const pb::QueueToken& rival_token, const std::string& date) {
  pb::HoldSeatsRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(rival_token.user_id());
  request.set_date(date);
  request.mutable_best_available()->set_seat_count(2);
  request.set_request_id(NewId());
  const auto hold = [&] {
    return Call(*reservations_, &pb::ReservationService::Stub::HoldSeats, request, &rival_token).reservation();
  };
  const pb::Reservation reservation = hold();
  Check(reservation.seats_size() == 2, "two seats should be held, not ", reservation.seats_size());
  const pb::ReservedSeat& first = reservation.seats(0);
  const pb::ReservedSeat& second = reservation.seats(1);
  Check(first.row() == second.row(), "both seats should be in one row, not in ", first.row(), " and ", second.row());
  Check(second.number_in_row() == first.number_in_row() + 1, "the seats should be adjacent, not ",
        first.number_in_row(), " and ", second.number_in_row());
  Check(MessageDifferencer::Equals(hold(), reservation),
        "a request with the same request_id should return the same seats");
  Tell(14, "the rival holds the best seats, ", first.number_in_row(), " and ", second.number_in_row(), " of row ",
       first.row());
}

void Scenario::LeaveQueue(const pb::QueueToken& rival_token) {
  pb::LeaveQueueRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(rival_token.user_id());
  Call(*queue_, &pb::QueueService::Stub::LeaveQueue, request, &rival_token);
  Tell(15, "the rival left the queue");
}

void Scenario::CheckBalance(int64_t expected) {
  pb::GetBalanceRequest request;
  request.set_user_id(user_id_);
  const int64_t balance = Call(*wallets_, &pb::WalletService::Stub::GetBalance, request).balance();
  Check(balance == expected, "the wallet should hold ", expected, ", not ", balance);
}

void Scenario::CheckLedger(int64_t expected) {
  pb::ListWalletEntriesRequest request;
  request.set_user_id(user_id_);
  const auto listed = Call(*wallets_, &pb::WalletService::Stub::ListWalletEntries, request);
  std::vector<pb::WalletEntryKind> kinds;
  int64_t total = 0;
  for (const pb::WalletEntry& entry : listed.entries()) {
    kinds.push_back(entry.kind());
    total += entry.amount();
  }
  const std::vector<pb::WalletEntryKind> newest_first = {pb::WALLET_ENTRY_KIND_REFUND, pb::WALLET_ENTRY_KIND_PAYMENT,
                                                         pb::WALLET_ENTRY_KIND_CHARGE};
  Check(kinds == newest_first, "the ledger should show a refund, a payment and a charge");
  Check(total == expected, "the ledger should add up to ", expected, ", not ", total);
}

pb::ListPerformancesRequest Scenario::NewListPerformances() const {
  pb::ListPerformancesRequest request;
  request.set_concert_code(kConcertCode);
  request.set_user_id(user_id_);
  return request;
}

pb::PayRequest Scenario::NewPay(const pb::Reservation& reservation) const {
  pb::PayRequest request;
  request.set_user_id(user_id_);
  request.set_reservation_id(reservation.reservation_id());
  request.set_request_id(NewId());
  return request;
}

}  // namespace client
