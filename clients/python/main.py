"""Buys two seats from boxoffice and gives them back, as ../SCENARIO.md tells: `main.py 127.0.0.1:50051`."""

import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc

from boxoffice.v1.concert_service_pb2 import SEAT_STATE_AVAILABLE, ListPerformancesRequest, ListSeatsRequest, Seat
from boxoffice.v1.concert_service_pb2_grpc import ConcertServiceStub
from boxoffice.v1.payment_service_pb2 import (
    PAYMENT_STATE_PAID,
    PAYMENT_STATE_REFUNDED,
    GetPaymentRequest,
    Payment,
    PayRequest,
    RefundPaymentRequest,
)
from boxoffice.v1.payment_service_pb2_grpc import PaymentServiceStub
from boxoffice.v1.queue_service_pb2 import (
    QUEUE_STATE_ACTIVE,
    QUEUE_STATE_WAITING,
    IssueTokenRequest,
    LeaveQueueRequest,
    QueueToken,
    WatchPositionRequest,
)
from boxoffice.v1.queue_service_pb2_grpc import QueueServiceStub
from boxoffice.v1.reservation_service_pb2 import (
    RESERVATION_STATE_HELD,
    BestAvailable,
    HoldSeatsRequest,
    Reservation,
)
from boxoffice.v1.reservation_service_pb2_grpc import ReservationServiceStub
from boxoffice.v1.wallet_service_pb2 import (
    WALLET_ENTRY_KIND_CHARGE,
    WALLET_ENTRY_KIND_PAYMENT,
    WALLET_ENTRY_KIND_REFUND,
    ChargeWalletRequest,
    GetBalanceRequest,
    ListWalletEntriesRequest,
    OpenWalletRequest,
)
from boxoffice.v1.wallet_service_pb2_grpc import WalletServiceStub
from failure import Failure, patiently

CONCERT_CODE = "IU-2034"
SERVICE_CONFIG = Path(__file__).parents[2] / "proto" / "service_config.json"
WATCH_SECONDS = 60
# How long to wait before a broken stream is opened again, where the server did not say.
WATCH_RETRY_SECONDS = 1


class CheckFailed(Exception):
    """The server did not do what the scenario says."""


def check(holds: bool, sentence: str) -> None:
    if not holds:
        raise CheckFailed(sentence)


def refused(reason: str, call: Callable[[], object]) -> Failure:
    """Makes a call that has to fail for this reason, and returns the failure."""
    try:
        call()
    except grpc.RpcError as error:
        failure = Failure.of(error)
        check(failure.reason == reason, f"a call should fail with {reason}, and failed with {failure}")
        return failure
    raise CheckFailed(f"a call should fail with {reason}, and succeeded")


def tell(step: int, sentence: str) -> None:
    print(f"{step:2} {sentence}", flush=True)


def bearer(token: QueueToken) -> list[tuple[str, str]]:
    """The metadata that shows the queue token to the server."""
    return [("authorization", f"Bearer {token.token}")]


class Scenario:
    """One user's way through the services, over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.queue = QueueServiceStub(channel)
        self.concerts = ConcertServiceStub(channel)
        self.reservations = ReservationServiceStub(channel)
        self.wallets = WalletServiceStub(channel)
        self.payments = PaymentServiceStub(channel)
        self.user_id = str(uuid.uuid4())

    def play(self) -> None:
        self.open_wallet()
        self.read_violations()
        token = self.take_token()
        self.come_too_early(token)
        self.wait_for_admission(token)
        seats = self.choose_seats(token)
        rival_token = self.let_rival_hold(seats[0])
        reservation = self.hold(token, seats)
        self.pay_from_empty_wallet(token, reservation)
        self.charge(reservation.total_price)
        payment = self.pay(token, reservation)
        self.look_at(payment)
        self.refund(payment)
        self.hold_best(rival_token, reservation.date)
        self.leave_queue(rival_token)

    def open_wallet(self) -> None:
        request = OpenWalletRequest(user_id=self.user_id)
        wallet = self.wallets.OpenWallet(request).wallet
        check(wallet.balance == 0, f"a new wallet should be empty, and holds {wallet.balance}")
        check(self.wallets.OpenWallet(request).wallet == wallet, "opening a wallet again should return the same wallet")
        tell(1, f"opened a wallet in {wallet.currency_code} for user {self.user_id}")

    def read_violations(self) -> None:
        request = ChargeWalletRequest(user_id="nobody", amount=-1)
        failure = refused("INVALID_ARGUMENT", lambda: self.wallets.ChargeWallet(request))
        fields = set(failure.violations)
        check(fields == {"user_id", "amount"}, f"user_id and amount are wrong, not {fields}")
        tell(2, f"read what is wrong with a request: amount {failure.violations['amount']}")

    def take_token(self) -> QueueToken:
        request = IssueTokenRequest(concert_code=CONCERT_CODE, user_id=self.user_id)
        token = self.queue.IssueToken(request).token
        check(token.state == QUEUE_STATE_WAITING, "a new token should wait")
        check(self.queue.IssueToken(request).token == token, "a second IssueToken should return the first token")
        tell(3, f"took token number {token.queue_number} of {CONCERT_CODE}")
        return token

    def come_too_early(self, token: QueueToken) -> None:
        request = ListPerformancesRequest(concert_code=CONCERT_CODE, user_id=self.user_id)
        failure = refused("NOT_ADMITTED", lambda: self.concerts.ListPerformances(request, metadata=bearer(token)))
        named = failure.metadata.get("queue_number")
        check(named == str(token.queue_number), f"NOT_ADMITTED should name the token's number, not {named}")
        check(bool(failure.retry_seconds), "NOT_ADMITTED should say when to try again")
        tell(4, f"came too early: try again in {failure.retry_seconds:.1f} s")

    def wait_for_admission(self, token: QueueToken) -> None:
        """Watches the token until it is admitted. A stream that breaks is opened again: the place is kept."""
        request = WatchPositionRequest(concert_code=CONCERT_CODE, user_id=self.user_id)
        asked, breaks = False, 0
        while True:
            try:
                for message in self.queue.WatchPosition(request, metadata=bearer(token), timeout=WATCH_SECONDS):
                    position = message.position
                    check(position.queue_number == token.queue_number, "the token's number should stay the same")
                    if position.state == QUEUE_STATE_ACTIVE:
                        check(breaks > 0, "the token was admitted before the server was restarted")
                        tell(5, f"admitted, after the stream broke ({breaks})")
                        return
                    check(position.state == QUEUE_STATE_WAITING, "the token should wait until it is admitted")
                    if not asked:
                        asked = True
                        tell(5, f"waiting at position {position.position}")
                        print("restart the server", flush=True)
            except grpc.RpcError as error:
                failure = Failure.of(error)
                if failure.code != grpc.StatusCode.UNAVAILABLE and failure.retry_seconds is None:
                    raise
                breaks += 1
                time.sleep(failure.retry_seconds or WATCH_RETRY_SECONDS)

    def choose_seats(self, token: QueueToken) -> list[Seat]:
        request = ListPerformancesRequest(concert_code=CONCERT_CODE, user_id=self.user_id)
        performance = self.concerts.ListPerformances(request, metadata=bearer(token)).performances[0]
        request = ListSeatsRequest(concert_code=CONCERT_CODE, user_id=self.user_id, date=performance.date)
        seats = self.concerts.ListSeats(request, metadata=bearer(token)).seats
        available = [seat for seat in seats if seat.state == SEAT_STATE_AVAILABLE]
        for listed, expected in [(seats, performance.seat_count), (available, performance.available_seat_count)]:
            check(len(listed) == expected, f"ListSeats should list {expected} seats, not {len(listed)}")
        chosen = available[:2]
        tell(6, f"chose seats {[seat.seat_number for seat in chosen]} of {len(available)} on {performance.date}")
        return chosen

    def let_rival_hold(self, seat: Seat) -> QueueToken:
        """Another user holds one of the chosen seats, as soon as it is admitted."""
        rival_id = str(uuid.uuid4())
        self.wallets.OpenWallet(OpenWalletRequest(user_id=rival_id))
        token = self.queue.IssueToken(IssueTokenRequest(concert_code=CONCERT_CODE, user_id=rival_id)).token
        request = HoldSeatsRequest(
            concert_code=CONCERT_CODE,
            user_id=rival_id,
            date=seat.date,
            seat_numbers=[seat.seat_number],
            request_id=str(uuid.uuid4()),
        )
        patiently(lambda: self.reservations.HoldSeats(request, metadata=bearer(token)))
        tell(7, f"a rival holds seat {seat.seat_number}")
        return token

    def hold(self, token: QueueToken, seats: list[Seat]) -> Reservation:
        request = HoldSeatsRequest(
            concert_code=CONCERT_CODE,
            user_id=self.user_id,
            date=seats[0].date,
            seat_numbers=[seat.seat_number for seat in seats],
            request_id=str(uuid.uuid4()),
        )
        failure = refused("SEAT_HELD", lambda: self.reservations.HoldSeats(request, metadata=bearer(token)))
        taken = failure.metadata.get("seat_numbers")
        check(taken == str(seats[0].seat_number), f"SEAT_HELD should name seat {seats[0].seat_number}, not {taken}")
        reservation = patiently(lambda: self.reservations.HoldSeats(request, metadata=bearer(token))).reservation
        check(reservation.state == RESERVATION_STATE_HELD, "the reservation should be HELD")
        price = sum(seat.price for seat in seats)
        check(reservation.total_price == price, f"two seats cost {price}, not {reservation.total_price}")
        repeated = self.reservations.HoldSeats(request, metadata=bearer(token)).reservation
        check(repeated == reservation, "a hold with the same request_id should return the same reservation")
        tell(8, f"hold reservation {reservation.reservation_id} for {price}")
        return reservation

    def pay_from_empty_wallet(self, token: QueueToken, reservation: Reservation) -> None:
        request = PayRequest(
            user_id=self.user_id, reservation_id=reservation.reservation_id, request_id=str(uuid.uuid4())
        )
        failure = refused("INSUFFICIENT_BALANCE", lambda: self.payments.Pay(request, metadata=bearer(token)))
        expected = {"balance": "0", "price": str(reservation.total_price)}
        check(failure.metadata == expected, f"INSUFFICIENT_BALANCE should come with {expected}, not {failure.metadata}")
        tell(9, f"could not pay: the wallet holds {failure.metadata['balance']} of {failure.metadata['price']}")

    def charge(self, amount: int) -> None:
        request = ChargeWalletRequest(user_id=self.user_id, amount=amount, request_id=str(uuid.uuid4()))
        charged = self.wallets.ChargeWallet(request)
        check(charged.balance == amount, f"the wallet should hold {amount}, not {charged.balance}")
        check(self.wallets.ChargeWallet(request) == charged, "a charge with the same request_id should be booked once")
        request.amount += 1
        refused("REQUEST_ID_CONFLICT", lambda: self.wallets.ChargeWallet(request))
        tell(10, f"charged the wallet with {amount}, once")

    def pay(self, token: QueueToken, reservation: Reservation) -> Payment:
        request = PayRequest(
            user_id=self.user_id, reservation_id=reservation.reservation_id, request_id=str(uuid.uuid4())
        )
        payment = self.payments.Pay(request, metadata=bearer(token)).payment
        check(payment.state == PAYMENT_STATE_PAID, "the payment should be PAID")
        check(payment.price == reservation.total_price, f"{reservation.total_price} is due, not {payment.price}")
        seat_numbers = [seat.seat_number for seat in reservation.seats]
        check(payment.seat_numbers == seat_numbers, f"seats {seat_numbers} are paid for, not {payment.seat_numbers}")
        self.check_balance(0)
        tell(11, f"paid {payment.price} for seats {seat_numbers}")
        return payment

    def look_at(self, payment: Payment) -> None:
        request = GetPaymentRequest(user_id=self.user_id, payment_id=payment.payment_id)
        check(self.payments.GetPayment(request).payment == payment, "GetPayment should show the payment as it was paid")
        tell(12, f"looked at payment {payment.payment_id}")

    def refund(self, payment: Payment) -> None:
        request = RefundPaymentRequest(
            user_id=self.user_id, payment_id=payment.payment_id, request_id=str(uuid.uuid4())
        )
        refunded = self.payments.RefundPayment(request).payment
        check(refunded.state == PAYMENT_STATE_REFUNDED, "the payment should be REFUNDED")
        self.check_balance(payment.price)
        entries = self.wallets.ListWalletEntries(ListWalletEntriesRequest(user_id=self.user_id)).entries
        kinds = [WALLET_ENTRY_KIND_REFUND, WALLET_ENTRY_KIND_PAYMENT, WALLET_ENTRY_KIND_CHARGE]
        check([entry.kind for entry in entries] == kinds, "the ledger should show a refund, a payment and a charge")
        total = sum(entry.amount for entry in entries)
        check(total == payment.price, f"the ledger should add up to {payment.price}, not {total}")
        tell(13, f"got {payment.price} back")

    def hold_best(self, rival_token: QueueToken, date: str) -> None:
        request = HoldSeatsRequest(
            concert_code=CONCERT_CODE,
            user_id=rival_token.user_id,
            date=date,
            best_available=BestAvailable(seat_count=2),
            request_id=str(uuid.uuid4()),
        )
        reservation = self.reservations.HoldSeats(request, metadata=bearer(rival_token)).reservation
        first, second = reservation.seats
        check(first.row == second.row, f"both seats should be in one row, not in {first.row} and {second.row}")
        numbers = (first.number_in_row, second.number_in_row)
        check(numbers[1] == numbers[0] + 1, f"the seats should be adjacent, not {numbers}")
        repeated = self.reservations.HoldSeats(request, metadata=bearer(rival_token)).reservation
        check(repeated == reservation, "a request with the same request_id should return the same seats")
        tell(14, f"the rival holds the best seats, {numbers[0]} and {numbers[1]} of row {first.row}")

    def leave_queue(self, rival_token: QueueToken) -> None:
        request = LeaveQueueRequest(concert_code=CONCERT_CODE, user_id=rival_token.user_id)
        self.queue.LeaveQueue(request, metadata=bearer(rival_token))
        tell(15, "the rival left the queue")

    def check_balance(self, expected: int) -> None:
        balance = self.wallets.GetBalance(GetBalanceRequest(user_id=self.user_id)).balance
        check(balance == expected, f"the wallet should hold {expected}, not {balance}")


def main() -> None:
    [address] = sys.argv[1:] or ["127.0.0.1:50051"]
    options = [("grpc.service_config", SERVICE_CONFIG.read_text())]
    with grpc.insecure_channel(address, options) as channel:
        try:
            Scenario(channel).play()
        except CheckFailed as failed:
            sys.exit(f"check failed: {failed}")
        except grpc.RpcError as error:
            sys.exit(f"a call failed: {Failure.of(error)}")


if __name__ == "__main__":
    main()
