package boxoffice.client;

import static boxoffice.client.Patience.patiently;
import static boxoffice.client.Patience.seconds;

import boxoffice.v1.ConcertServiceGrpc;
import boxoffice.v1.ConcertServiceGrpc.ConcertServiceBlockingStub;
import boxoffice.v1.ConcertServiceOuterClass.ListPerformancesRequest;
import boxoffice.v1.ConcertServiceOuterClass.ListSeatsRequest;
import boxoffice.v1.ConcertServiceOuterClass.Performance;
import boxoffice.v1.ConcertServiceOuterClass.Seat;
import boxoffice.v1.ConcertServiceOuterClass.SeatState;
import boxoffice.v1.PaymentServiceGrpc;
import boxoffice.v1.PaymentServiceGrpc.PaymentServiceBlockingStub;
import boxoffice.v1.PaymentServiceOuterClass.GetPaymentRequest;
import boxoffice.v1.PaymentServiceOuterClass.PayRequest;
import boxoffice.v1.PaymentServiceOuterClass.Payment;
import boxoffice.v1.PaymentServiceOuterClass.PaymentState;
import boxoffice.v1.PaymentServiceOuterClass.RefundPaymentRequest;
import boxoffice.v1.QueueServiceGrpc;
import boxoffice.v1.QueueServiceGrpc.QueueServiceBlockingStub;
import boxoffice.v1.QueueServiceOuterClass.IssueTokenRequest;
import boxoffice.v1.QueueServiceOuterClass.LeaveQueueRequest;
import boxoffice.v1.QueueServiceOuterClass.QueuePosition;
import boxoffice.v1.QueueServiceOuterClass.QueueState;
import boxoffice.v1.QueueServiceOuterClass.QueueToken;
import boxoffice.v1.QueueServiceOuterClass.WatchPositionRequest;
import boxoffice.v1.ReservationServiceGrpc;
import boxoffice.v1.ReservationServiceGrpc.ReservationServiceBlockingStub;
import boxoffice.v1.ReservationServiceOuterClass.BestAvailable;
import boxoffice.v1.ReservationServiceOuterClass.HoldSeatsRequest;
import boxoffice.v1.ReservationServiceOuterClass.Reservation;
import boxoffice.v1.ReservationServiceOuterClass.ReservationState;
import boxoffice.v1.ReservationServiceOuterClass.ReservedSeat;
import boxoffice.v1.WalletServiceGrpc;
import boxoffice.v1.WalletServiceGrpc.WalletServiceBlockingStub;
import boxoffice.v1.WalletServiceOuterClass.ChargeWalletRequest;
import boxoffice.v1.WalletServiceOuterClass.GetBalanceRequest;
import boxoffice.v1.WalletServiceOuterClass.ListWalletEntriesRequest;
import boxoffice.v1.WalletServiceOuterClass.OpenWalletRequest;
import boxoffice.v1.WalletServiceOuterClass.Wallet;
import boxoffice.v1.WalletServiceOuterClass.WalletEntry;
import boxoffice.v1.WalletServiceOuterClass.WalletEntryKind;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** One user's way through the services, over one channel. */
final class Scenario {
    private static final String CONCERT_CODE = "IU-2034";
    private static final Duration WATCH_TIMEOUT = Duration.ofMinutes(1);
    /** How long to wait before a broken stream is opened again, where the server did not say. */
    private static final Duration WATCH_RETRY_DELAY = Duration.ofSeconds(1);
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final QueueServiceBlockingStub queue;
    private final ConcertServiceBlockingStub concerts;
    private final ReservationServiceBlockingStub reservations;
    private final WalletServiceBlockingStub wallets;
    private final PaymentServiceBlockingStub payments;
    private final String userId = newId();
    private boolean askedForRestart;

    Scenario(Channel channel) {
        queue = QueueServiceGrpc.newBlockingStub(channel);
        concerts = ConcertServiceGrpc.newBlockingStub(channel);
        reservations = ReservationServiceGrpc.newBlockingStub(channel);
        wallets = WalletServiceGrpc.newBlockingStub(channel);
        payments = PaymentServiceGrpc.newBlockingStub(channel);
    }

    void play() throws InterruptedException {
        openWallet();
        readViolations();
        QueueToken token = takeToken();
        comeTooEarly(token);
        waitForAdmission(token);
        List<Seat> seats = chooseSeats(token);
        QueueToken rivalToken = letRivalHold(seats.get(0));
        Reservation reservation = hold(token, seats);
        payFromEmptyWallet(token, reservation);
        charge(reservation.getTotalPrice());
        Payment payment = pay(token, reservation);
        lookAt(payment);
        refund(payment);
        holdBest(rivalToken, reservation.getDate());
        leaveQueue(rivalToken);
    }

    private void openWallet() {
        var request = OpenWalletRequest.newBuilder().setUserId(userId).build();
        Wallet wallet = wallets.openWallet(request).getWallet();
        check(wallet.getBalance() == 0, "a new wallet should be empty, and holds %d", wallet.getBalance());
        Wallet again = wallets.openWallet(request).getWallet();
        check(again.equals(wallet), "opening a wallet again should return the same wallet");
        tell(1, "opened a wallet in %s for user %s", wallet.getCurrencyCode(), userId);
    }

    private void readViolations() {
        var request = ChargeWalletRequest.newBuilder().setUserId("nobody").setAmount(-1).build();
        Map<String, String> violations = refused("INVALID_ARGUMENT", () -> wallets.chargeWallet(request)).violations();
        Set<String> fields = violations.keySet();
        check(fields.equals(Set.of("user_id", "amount")), "user_id and amount are wrong, not %s", fields);
        tell(2, "read what is wrong with a request: amount %s", violations.get("amount"));
    }

    private QueueToken takeToken() {
        var request = IssueTokenRequest.newBuilder().setConcertCode(CONCERT_CODE).setUserId(userId).build();
        QueueToken token = queue.issueToken(request).getToken();
        check(token.getState() == QueueState.QUEUE_STATE_WAITING, "a new token should wait");
        QueueToken again = queue.issueToken(request).getToken();
        check(again.equals(token), "a second IssueToken should return the first token");
        tell(3, "took token number %d of %s", token.getQueueNumber(), CONCERT_CODE);
        return token;
    }

    private void comeTooEarly(QueueToken token) {
        Failure failure = refused(
                "NOT_ADMITTED", () -> bearing(token, concerts).listPerformances(listPerformancesRequest()));
        String named = failure.metadata().get("queue_number");
        check(
                String.valueOf(token.getQueueNumber()).equals(named),
                "NOT_ADMITTED should name the token's number, not %s",
                named);
        Duration delay = failure.retryDelay().orElse(Duration.ZERO);
        check(delay.compareTo(Duration.ZERO) > 0, "NOT_ADMITTED should say when to try again");
        tell(4, "came too early: try again in %s", seconds(delay));
    }

    /** Watches the token until it is admitted. A stream that breaks is opened again: the place is kept. */
    private void waitForAdmission(QueueToken token) throws InterruptedException {
        var stub = bearing(token, queue).withDeadlineAfter(WATCH_TIMEOUT.toSeconds(), TimeUnit.SECONDS);
        for (int breaks = 0; ; breaks++) {
            // Closing the context ends the stream.
            try (Context.CancellableContext context = Context.current().withCancellation()) {
                context.run(() -> watch(stub, token));
                check(breaks > 0, "the token was admitted before the server was restarted");
                tell(5, "admitted, after the stream broke (%d)", breaks);
                return;
            } catch (StatusRuntimeException exception) {
                Failure failure = Failure.of(exception);
                if (failure.code() != Status.Code.UNAVAILABLE && failure.retryDelay().isEmpty()) {
                    throw exception;
                }
                Thread.sleep(failure.retryDelay().orElse(WATCH_RETRY_DELAY).toMillis());
            }
        }
    }

    /** Reads one stream until the token is admitted. */
    private void watch(QueueServiceBlockingStub stub, QueueToken token) {
        var request = WatchPositionRequest.newBuilder().setConcertCode(CONCERT_CODE).setUserId(userId).build();
        var messages = stub.watchPosition(request);
        while (messages.hasNext()) {
            QueuePosition position = messages.next().getPosition();
            check(position.getQueueNumber() == token.getQueueNumber(), "the token's number should stay the same");
            if (position.getState() == QueueState.QUEUE_STATE_ACTIVE) {
                return;
            }
            check(
                    position.getState() == QueueState.QUEUE_STATE_WAITING,
                    "the token should wait until it is admitted, and is %s",
                    position.getState());
            if (!askedForRestart) {
                askedForRestart = true;
                tell(5, "waiting at position %d", position.getPosition());
                System.out.println("restart the server");
            }
        }
        throw new CheckFailed("the stream ended before the token was admitted");
    }

    private List<Seat> chooseSeats(QueueToken token) {
        var stub = bearing(token, concerts);
        Performance performance = stub.listPerformances(listPerformancesRequest()).getPerformances(0);
        var request = ListSeatsRequest.newBuilder()
                .setConcertCode(CONCERT_CODE)
                .setUserId(userId)
                .setDate(performance.getDate())
                .build();
        List<Seat> seats = stub.listSeats(request).getSeatsList();
        List<Seat> available = seats.stream()
                .filter(seat -> seat.getState() == SeatState.SEAT_STATE_AVAILABLE)
                .toList();
        check(
                seats.size() == performance.getSeatCount(),
                "ListSeats should list %d seats, not %d",
                performance.getSeatCount(),
                seats.size());
        check(
                available.size() == performance.getAvailableSeatCount(),
                "ListSeats should list %d available seats, not %d",
                performance.getAvailableSeatCount(),
                available.size());
        List<Seat> chosen = available.subList(0, 2);
        tell(6, "chose seats %s of %d on %s", seatNumbers(chosen), available.size(), performance.getDate());
        return chosen;
    }

    /** Lets another user hold one of the chosen seats, as soon as it is admitted. */
    private QueueToken letRivalHold(Seat seat) throws InterruptedException {
        String rivalId = newId();
        wallets.openWallet(OpenWalletRequest.newBuilder().setUserId(rivalId).build());
        var issue = IssueTokenRequest.newBuilder().setConcertCode(CONCERT_CODE).setUserId(rivalId).build();
        QueueToken token = queue.issueToken(issue).getToken();
        var hold = holdSeatsRequest(rivalId, List.of(seat));
        patiently(() -> bearing(token, reservations).holdSeats(hold));
        tell(7, "a rival holds seat %d", seat.getSeatNumber());
        return token;
    }

    private Reservation hold(QueueToken token, List<Seat> seats) throws InterruptedException {
        var request = holdSeatsRequest(userId, seats);
        Supplier<Reservation> hold = () -> bearing(token, reservations).holdSeats(request).getReservation();
        String taken = refused("SEAT_HELD", hold).metadata().get("seat_numbers");
        String rivalSeat = String.valueOf(seats.get(0).getSeatNumber());
        check(rivalSeat.equals(taken), "SEAT_HELD should name seat %s, not %s", rivalSeat, taken);
        Reservation reservation = patiently(hold);
        check(reservation.getState() == ReservationState.RESERVATION_STATE_HELD, "the reservation should be HELD");
        long price = seats.stream().mapToLong(Seat::getPrice).sum();
        check(reservation.getTotalPrice() == price, "two seats cost %d, not %d", price, reservation.getTotalPrice());
        check(hold.get().equals(reservation), "a hold with the same request_id should return the same reservation");
        tell(8, "hold reservation %s for %d", reservation.getReservationId(), price);
        return reservation;
    }

    private void payFromEmptyWallet(QueueToken token, Reservation reservation) {
        var request = payRequest(reservation);
        Map<String, String> metadata =
                refused("INSUFFICIENT_BALANCE", () -> bearing(token, payments).pay(request)).metadata();
        var expected = Map.of("balance", "0", "price", String.valueOf(reservation.getTotalPrice()));
        check(metadata.equals(expected), "INSUFFICIENT_BALANCE should come with %s, not %s", expected, metadata);
        tell(9, "could not pay: the wallet holds %s of %s", metadata.get("balance"), metadata.get("price"));
    }

    private void charge(long amount) {
        var request = ChargeWalletRequest.newBuilder()
                .setUserId(userId)
                .setAmount(amount)
                .setRequestId(newId())
                .build();
        var charged = wallets.chargeWallet(request);
        check(charged.getBalance() == amount, "the wallet should hold %d, not %d", amount, charged.getBalance());
        var again = wallets.chargeWallet(request);
        check(again.equals(charged), "a charge with the same request_id should be booked once");
        var other = request.toBuilder().setAmount(amount + 1).build();
        refused("REQUEST_ID_CONFLICT", () -> wallets.chargeWallet(other));
        tell(10, "charged the wallet with %d, once", amount);
    }

    private Payment pay(QueueToken token, Reservation reservation) {
        Payment payment = bearing(token, payments).pay(payRequest(reservation)).getPayment();
        check(payment.getState() == PaymentState.PAYMENT_STATE_PAID, "the payment should be PAID");
        long due = reservation.getTotalPrice();
        check(payment.getPrice() == due, "%d is due, not %d", due, payment.getPrice());
        List<Integer> numbers =
                reservation.getSeatsList().stream().map(ReservedSeat::getSeatNumber).toList();
        List<Integer> paidFor = payment.getSeatNumbersList();
        check(paidFor.equals(numbers), "seats %s are paid for, not %s", numbers, paidFor);
        checkBalance(0);
        tell(11, "paid %d for seats %s", payment.getPrice(), numbers);
        return payment;
    }

    private void lookAt(Payment payment) {
        var request = GetPaymentRequest.newBuilder()
                .setUserId(userId)
                .setPaymentId(payment.getPaymentId())
                .build();
        Payment shown = payments.getPayment(request).getPayment();
        check(shown.equals(payment), "GetPayment should show the payment as it was paid");
        tell(12, "looked at payment %s", payment.getPaymentId());
    }

    private void refund(Payment payment) {
        var request = RefundPaymentRequest.newBuilder()
                .setUserId(userId)
                .setPaymentId(payment.getPaymentId())
                .setRequestId(newId())
                .build();
        Payment refunded = payments.refundPayment(request).getPayment();
        check(refunded.getState() == PaymentState.PAYMENT_STATE_REFUNDED, "the payment should be REFUNDED");
        checkBalance(payment.getPrice());
        checkLedger(payment.getPrice());
        tell(13, "got %d back", payment.getPrice());
    }

    private void holdBest(QueueToken rivalToken, String date) {
        var request = HoldSeatsRequest.newBuilder()
                .setConcertCode(CONCERT_CODE)
                .setUserId(rivalToken.getUserId())
                .setDate(date)
                .setBestAvailable(BestAvailable.newBuilder().setSeatCount(2))
                .setRequestId(newId())
                .build();
        Supplier<Reservation> hold =
                () -> bearing(rivalToken, reservations).holdSeats(request).getReservation();
        Reservation reservation = hold.get();
        check(reservation.getSeatsCount() == 2, "two seats should be held, not %d", reservation.getSeatsCount());
        ReservedSeat first = reservation.getSeats(0);
        ReservedSeat second = reservation.getSeats(1);
        check(
                first.getRow().equals(second.getRow()),
                "both seats should be in one row, not in %s and %s",
                first.getRow(),
                second.getRow());
        int number = first.getNumberInRow();
        check(
                second.getNumberInRow() == number + 1,
                "the seats should be adjacent, not %d and %d",
                number,
                second.getNumberInRow());
        check(hold.get().equals(reservation), "a request with the same request_id should return the same seats");
        tell(14, "the rival holds the best seats, %d and %d of row %s", number, number + 1, first.getRow());
    }

    private void leaveQueue(QueueToken rivalToken) {
        var request = LeaveQueueRequest.newBuilder()
                .setConcertCode(CONCERT_CODE)
                .setUserId(rivalToken.getUserId())
                .build();
        bearing(rivalToken, queue).leaveQueue(request);
        tell(15, "the rival left the queue");
    }

    private void checkBalance(long expected) {
        long balance = wallets.getBalance(GetBalanceRequest.newBuilder().setUserId(userId).build()).getBalance();
        check(balance == expected, "the wallet should hold %d, not %d", expected, balance);
    }

    private void checkLedger(long expected) {
        var request = ListWalletEntriesRequest.newBuilder().setUserId(userId).build();
        List<WalletEntry> entries = wallets.listWalletEntries(request).getEntriesList();
        List<WalletEntryKind> kinds = entries.stream().map(WalletEntry::getKind).toList();
        List<WalletEntryKind> newestFirst = List.of(
                WalletEntryKind.WALLET_ENTRY_KIND_REFUND,
                WalletEntryKind.WALLET_ENTRY_KIND_PAYMENT,
                WalletEntryKind.WALLET_ENTRY_KIND_CHARGE);
        check(kinds.equals(newestFirst), "the ledger should show %s, not %s", newestFirst, kinds);
        long total = entries.stream().mapToLong(WalletEntry::getAmount).sum();
        check(total == expected, "the ledger should add up to %d, not %d", expected, total);
    }

    private ListPerformancesRequest listPerformancesRequest() {
        return ListPerformancesRequest.newBuilder().setConcertCode(CONCERT_CODE).setUserId(userId).build();
    }

    private static HoldSeatsRequest holdSeatsRequest(String userId, List<Seat> seats) {
        return HoldSeatsRequest.newBuilder()
                .setConcertCode(CONCERT_CODE)
                .setUserId(userId)
                .setDate(seats.get(0).getDate())
                .addAllSeatNumbers(seatNumbers(seats))
                .setRequestId(newId())
                .build();
    }

    private PayRequest payRequest(Reservation reservation) {
        return PayRequest.newBuilder()
                .setUserId(userId)
                .setReservationId(reservation.getReservationId())
                .setRequestId(newId())
                .build();
    }

    /** Returns a stub whose calls show the queue token to the server. */
    private static <S extends AbstractStub<S>> S bearing(QueueToken token, S stub) {
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + token.getToken());
        return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
    }

    /** Makes a call that has to fail for this reason, and returns the failure. */
    private static Failure refused(String reason, Supplier<?> call) {
        try {
            call.get();
        } catch (StatusRuntimeException exception) {
            Failure failure = Failure.of(exception);
            check(
                    failure.reason().equals(reason),
                    "a call should fail with %s, and failed with %s",
                    reason,
                    failure);
            return failure;
        }
        throw new CheckFailed("a call should fail with %s, and succeeded".formatted(reason));
    }

    private static void check(boolean holds, String sentence, Object... values) {
        if (!holds) {
            throw new CheckFailed(sentence.formatted(values));
        }
    }

    private static void tell(int step, String sentence, Object... values) {
        System.out.printf("%2d %s%n", step, sentence.formatted(values));
    }

    private static List<Integer> seatNumbers(List<Seat> seats) {
        return seats.stream().map(Seat::getSeatNumber).toList();
    }

    private static String newId() {
        return UUID.randomUUID().toString();
    }
}
