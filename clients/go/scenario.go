package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "boxoffice/v1"
)

const (
	concertCode  = "IU-2034"
	watchTimeout = time.Minute
	// watchRetryDelay is how long to wait before a broken stream is opened again, where the server did not say.
	watchRetryDelay = time.Second
)

// scenario is one user's way through the services, over one connection.
type scenario struct {
	queue        pb.QueueServiceClient
	concerts     pb.ConcertServiceClient
	reservations pb.ReservationServiceClient
	wallets      pb.WalletServiceClient
	payments     pb.PaymentServiceClient

	userID      string
	token       *pb.QueueToken
	rivalToken  *pb.QueueToken
	seats       []*pb.Seat
	reservation *pb.Reservation
	payment     *pb.Payment

	askedForRestart bool
}

func newScenario(conn grpc.ClientConnInterface) *scenario {
	return &scenario{
		queue:        pb.NewQueueServiceClient(conn),
		concerts:     pb.NewConcertServiceClient(conn),
		reservations: pb.NewReservationServiceClient(conn),
		wallets:      pb.NewWalletServiceClient(conn),
		payments:     pb.NewPaymentServiceClient(conn),
		userID:       uuid.NewString(),
	}
}

// play takes the steps of the scenario in turn.
func (s *scenario) play(ctx context.Context) error {
	steps := []func(context.Context) (string, error){
		s.openWallet,
		s.readViolations,
		s.takeToken,
		s.comeTooEarly,
		s.waitForAdmission,
		s.chooseSeats,
		s.letRivalHold,
		s.hold,
		s.payFromEmptyWallet,
		s.charge,
		s.pay,
		s.lookAtPayment,
		s.refund,
		s.holdBest,
		s.leaveQueue,
	}
	for i, step := range steps {
		done, err := step(ctx)
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		fmt.Printf("%2d %s\n", i+1, done)
	}
	return nil
}

func (s *scenario) openWallet(ctx context.Context) (string, error) {
	request := &pb.OpenWalletRequest{UserId: s.userID}
	opened, err := s.wallets.OpenWallet(ctx, request)
	if err != nil {
		return "", err
	}
	if balance := opened.GetWallet().GetBalance(); balance != 0 {
		return "", fmt.Errorf("a new wallet should be empty, and holds %d", balance)
	}
	again, err := s.wallets.OpenWallet(ctx, request)
	if err != nil {
		return "", err
	}
	if !proto.Equal(again, opened) {
		return "", errors.New("opening a wallet again should return the same wallet")
	}
	return fmt.Sprintf("opened a wallet in %s for user %s", opened.GetWallet().GetCurrencyCode(), s.userID), nil
}

func (s *scenario) readViolations(ctx context.Context) (string, error) {
	_, err := s.wallets.ChargeWallet(ctx, &pb.ChargeWalletRequest{UserId: "nobody", Amount: -1})
	f, err := refused(err, "INVALID_ARGUMENT")
	if err != nil {
		return "", err
	}
	_, user := f.violations["user_id"]
	amount, ok := f.violations["amount"]
	if !user || !ok || len(f.violations) != 2 {
		return "", fmt.Errorf("user_id and amount are wrong, not %v", f.violations)
	}
	return "read what is wrong with a request: amount " + amount, nil
}

func (s *scenario) takeToken(ctx context.Context) (string, error) {
	request := &pb.IssueTokenRequest{ConcertCode: concertCode, UserId: s.userID}
	issued, err := s.queue.IssueToken(ctx, request)
	if err != nil {
		return "", err
	}
	s.token = issued.GetToken()
	if s.token.GetState() != pb.QueueState_QUEUE_STATE_WAITING {
		return "", fmt.Errorf("a new token should wait, and is %v", s.token.GetState())
	}
	again, err := s.queue.IssueToken(ctx, request)
	if err != nil {
		return "", err
	}
	if !proto.Equal(again, issued) {
		return "", errors.New("a second IssueToken should return the first token")
	}
	return fmt.Sprintf("took token number %d of %s", s.token.GetQueueNumber(), concertCode), nil
}

func (s *scenario) comeTooEarly(ctx context.Context) (string, error) {
	_, err := s.concerts.ListPerformances(bearing(ctx, s.token), s.listPerformances())
	f, err := refused(err, "NOT_ADMITTED")
	if err != nil {
		return "", err
	}
	if named := f.metadata["queue_number"]; named != strconv.FormatInt(s.token.GetQueueNumber(), 10) {
		return "", fmt.Errorf("NOT_ADMITTED should name the token's number, not %q", named)
	}
	if f.retryDelay <= 0 {
		return "", errors.New("NOT_ADMITTED should say when to try again")
	}
	return fmt.Sprintf("came too early: try again in %.1f s", f.retryDelay.Seconds()), nil
}

// waitForAdmission watches the token until it is admitted. A stream that breaks is opened again: the place is kept.
func (s *scenario) waitForAdmission(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(bearing(ctx, s.token), watchTimeout)
	defer cancel()
	for breaks := 0; ; breaks++ {
		err := s.watch(ctx)
		if err == nil && breaks == 0 {
			return "", errors.New("the token was admitted before the server was restarted")
		}
		if err == nil {
			return fmt.Sprintf("admitted, after the stream broke (%d)", breaks), nil
		}
		f := failureOf(err)
		if f.code != codes.Unavailable && f.retryDelay == 0 {
			return "", err
		}
		delay := f.retryDelay
		if delay == 0 {
			delay = watchRetryDelay
		}
		if err := sleep(ctx, delay); err != nil {
			return "", err
		}
	}
}

// watch reads one stream until the token is admitted.
func (s *scenario) watch(ctx context.Context) error {
	stream, err := s.queue.WatchPosition(ctx, &pb.WatchPositionRequest{ConcertCode: concertCode, UserId: s.userID})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		position := message.GetPosition()
		if position.GetQueueNumber() != s.token.GetQueueNumber() {
			return fmt.Errorf("the token's number should stay the same, and is %d", position.GetQueueNumber())
		}
		switch position.GetState() {
		case pb.QueueState_QUEUE_STATE_ACTIVE:
			return nil
		case pb.QueueState_QUEUE_STATE_WAITING:
			if !s.askedForRestart {
				s.askedForRestart = true
				fmt.Printf(" 5 waiting at position %d\nrestart the server\n", position.GetPosition())
			}
		default:
			return fmt.Errorf("the token should wait until it is admitted, and is %v", position.GetState())
		}
	}
}

func (s *scenario) chooseSeats(ctx context.Context) (string, error) {
	ctx = bearing(ctx, s.token)
	listed, err := s.concerts.ListPerformances(ctx, s.listPerformances())
	if err != nil {
		return "", err
	}
	if len(listed.GetPerformances()) == 0 {
		return "", errors.New("a performance should have seats")
	}
	performance := listed.GetPerformances()[0]
	date := performance.GetDate()
	shown, err := s.concerts.ListSeats(ctx, &pb.ListSeatsRequest{
		ConcertCode: concertCode, UserId: s.userID, Date: date,
	})
	if err != nil {
		return "", err
	}
	var available []*pb.Seat
	for _, seat := range shown.GetSeats() {
		if seat.GetState() == pb.SeatState_SEAT_STATE_AVAILABLE {
			available = append(available, seat)
		}
	}
	if count := len(shown.GetSeats()); count != int(performance.GetSeatCount()) {
		return "", fmt.Errorf("ListSeats should list %d seats, not %d", performance.GetSeatCount(), count)
	}
	if count := len(available); count != int(performance.GetAvailableSeatCount()) || count < 2 {
		return "", fmt.Errorf("%d seats should be available, not %d", performance.GetAvailableSeatCount(), count)
	}
	s.seats = available[:2]
	return fmt.Sprintf("chose seats %v of %d on %s", seatNumbers(s.seats), len(available), date), nil
}

// letRivalHold lets another user hold one of the chosen seats, as soon as it is admitted.
func (s *scenario) letRivalHold(ctx context.Context) (string, error) {
	rivalID := uuid.NewString()
	if _, err := s.wallets.OpenWallet(ctx, &pb.OpenWalletRequest{UserId: rivalID}); err != nil {
		return "", err
	}
	issued, err := s.queue.IssueToken(ctx, &pb.IssueTokenRequest{ConcertCode: concertCode, UserId: rivalID})
	if err != nil {
		return "", err
	}
	s.rivalToken = issued.GetToken()
	seat := s.seats[0]
	request := &pb.HoldSeatsRequest{
		ConcertCode: concertCode,
		UserId:      rivalID,
		Date:        seat.GetDate(),
		SeatNumbers: []int32{seat.GetSeatNumber()},
		RequestId:   uuid.NewString(),
	}
	err = patiently(ctx, func() error {
		_, err := s.reservations.HoldSeats(bearing(ctx, s.rivalToken), request)
		return err
	})
	return fmt.Sprintf("a rival holds seat %d", seat.GetSeatNumber()), err
}

func (s *scenario) hold(ctx context.Context) (string, error) {
	rivalSeat := strconv.Itoa(int(s.seats[0].GetSeatNumber()))
	request := &pb.HoldSeatsRequest{
		ConcertCode: concertCode,
		UserId:      s.userID,
		Date:        s.seats[0].GetDate(),
		SeatNumbers: seatNumbers(s.seats),
		RequestId:   uuid.NewString(),
	}
	var held *pb.HoldSeatsResponse
	hold := func() (err error) {
		held, err = s.reservations.HoldSeats(bearing(ctx, s.token), request)
		return err
	}
	f, err := refused(hold(), "SEAT_HELD")
	if err != nil {
		return "", err
	}
	if taken := f.metadata["seat_numbers"]; taken != rivalSeat {
		return "", fmt.Errorf("SEAT_HELD should name seat %s, not %q", rivalSeat, taken)
	}
	if err := patiently(ctx, hold); err != nil {
		return "", err
	}
	s.reservation = held.GetReservation()
	if s.reservation.GetState() != pb.ReservationState_RESERVATION_STATE_HELD {
		return "", fmt.Errorf("the reservation should be HELD, and is %v", s.reservation.GetState())
	}
	price := s.seats[0].GetPrice() + s.seats[1].GetPrice()
	if s.reservation.GetTotalPrice() != price {
		return "", fmt.Errorf("two seats cost %d, not %d", price, s.reservation.GetTotalPrice())
	}
	if err := hold(); err != nil {
		return "", err
	}
	if !proto.Equal(held.GetReservation(), s.reservation) {
		return "", errors.New("a hold with the same request_id should return the same reservation")
	}
	return fmt.Sprintf("hold reservation %s for %d", s.reservation.GetReservationId(), price), nil
}

func (s *scenario) payFromEmptyWallet(ctx context.Context) (string, error) {
	_, err := s.payments.Pay(bearing(ctx, s.token), s.payRequest())
	f, err := refused(err, "INSUFFICIENT_BALANCE")
	if err != nil {
		return "", err
	}
	balance, price := f.metadata["balance"], f.metadata["price"]
	if balance != "0" || price != strconv.FormatInt(s.reservation.GetTotalPrice(), 10) {
		return "", fmt.Errorf("the wallet holds 0 of %d, not %s of %s", s.reservation.GetTotalPrice(), balance, price)
	}
	return fmt.Sprintf("could not pay: the wallet holds %s of %s", balance, price), nil
}

func (s *scenario) charge(ctx context.Context) (string, error) {
	amount := s.reservation.GetTotalPrice()
	request := &pb.ChargeWalletRequest{UserId: s.userID, Amount: amount, RequestId: uuid.NewString()}
	charged, err := s.wallets.ChargeWallet(ctx, request)
	if err != nil {
		return "", err
	}
	if charged.GetBalance() != amount {
		return "", fmt.Errorf("the wallet should hold %d, not %d", amount, charged.GetBalance())
	}
	again, err := s.wallets.ChargeWallet(ctx, request)
	if err != nil {
		return "", err
	}
	if !proto.Equal(again, charged) {
		return "", errors.New("a charge with the same request_id should be booked once")
	}
	request.Amount++
	_, err = s.wallets.ChargeWallet(ctx, request)
	if _, err := refused(err, "REQUEST_ID_CONFLICT"); err != nil {
		return "", err
	}
	return fmt.Sprintf("charged the wallet with %d, once", amount), nil
}

func (s *scenario) pay(ctx context.Context) (string, error) {
	paid, err := s.payments.Pay(bearing(ctx, s.token), s.payRequest())
	if err != nil {
		return "", err
	}
	s.payment = paid.GetPayment()
	if s.payment.GetState() != pb.PaymentState_PAYMENT_STATE_PAID {
		return "", fmt.Errorf("the payment should be PAID, and is %v", s.payment.GetState())
	}
	if s.payment.GetPrice() != s.reservation.GetTotalPrice() {
		return "", fmt.Errorf("%d is due, not %d", s.reservation.GetTotalPrice(), s.payment.GetPrice())
	}
	numbers := fmt.Sprint(seatNumbers(s.seats))
	if paidFor := fmt.Sprint(s.payment.GetSeatNumbers()); paidFor != numbers {
		return "", fmt.Errorf("seats %s are paid for, not %s", numbers, paidFor)
	}
	return fmt.Sprintf("paid %d for seats %s", s.payment.GetPrice(), numbers), s.checkBalance(ctx, 0)
}

func (s *scenario) lookAtPayment(ctx context.Context) (string, error) {
	paymentID := s.payment.GetPaymentId()
	shown, err := s.payments.GetPayment(ctx, &pb.GetPaymentRequest{UserId: s.userID, PaymentId: paymentID})
	if err != nil {
		return "", err
	}
	if !proto.Equal(shown.GetPayment(), s.payment) {
		return "", errors.New("GetPayment should show the payment as it was paid")
	}
	return "looked at payment " + paymentID, nil
}

func (s *scenario) refund(ctx context.Context) (string, error) {
	price := s.payment.GetPrice()
	refunded, err := s.payments.RefundPayment(ctx, &pb.RefundPaymentRequest{
		UserId: s.userID, PaymentId: s.payment.GetPaymentId(), RequestId: uuid.NewString(),
	})
	if err != nil {
		return "", err
	}
	if state := refunded.GetPayment().GetState(); state != pb.PaymentState_PAYMENT_STATE_REFUNDED {
		return "", fmt.Errorf("the payment should be REFUNDED, and is %v", state)
	}
	if err := s.checkBalance(ctx, price); err != nil {
		return "", err
	}
	return fmt.Sprintf("got %d back", price), s.checkLedger(ctx, price)
}

// holdBest lets the rival hold the best two seats that are together.
func (s *scenario) holdBest(ctx context.Context) (string, error) {
	request := &pb.HoldSeatsRequest{
		ConcertCode:   concertCode,
		UserId:        s.rivalToken.GetUserId(),
		Date:          s.reservation.GetDate(),
		BestAvailable: &pb.BestAvailable{SeatCount: 2},
		RequestId:     uuid.NewString(),
	}
	held, err := s.reservations.HoldSeats(bearing(ctx, s.rivalToken), request)
	if err != nil {
		return "", err
	}
	seats := held.GetReservation().GetSeats()
	if len(seats) != 2 {
		return "", fmt.Errorf("two seats should be held, not %d", len(seats))
	}
	row, first, second := seats[0].GetRow(), seats[0].GetNumberInRow(), seats[1].GetNumberInRow()
	if seats[1].GetRow() != row || second != first+1 {
		return "", fmt.Errorf("the seats should be adjacent in one row, not %v", seats)
	}
	again, err := s.reservations.HoldSeats(bearing(ctx, s.rivalToken), request)
	if err != nil {
		return "", err
	}
	if !proto.Equal(again, held) {
		return "", errors.New("a request with the same request_id should return the same seats")
	}
	return fmt.Sprintf("the rival holds the best seats, %d and %d of row %s", first, second, row), nil
}

func (s *scenario) leaveQueue(ctx context.Context) (string, error) {
	request := &pb.LeaveQueueRequest{ConcertCode: concertCode, UserId: s.rivalToken.GetUserId()}
	_, err := s.queue.LeaveQueue(bearing(ctx, s.rivalToken), request)
	return "the rival left the queue", err
}

func (s *scenario) listPerformances() *pb.ListPerformancesRequest {
	return &pb.ListPerformancesRequest{ConcertCode: concertCode, UserId: s.userID}
}

func (s *scenario) payRequest() *pb.PayRequest {
	return &pb.PayRequest{
		UserId: s.userID, ReservationId: s.reservation.GetReservationId(), RequestId: uuid.NewString(),
	}
}

func (s *scenario) checkBalance(ctx context.Context, expected int64) error {
	response, err := s.wallets.GetBalance(ctx, &pb.GetBalanceRequest{UserId: s.userID})
	if err == nil && response.GetBalance() != expected {
		err = fmt.Errorf("the wallet should hold %d, not %d", expected, response.GetBalance())
	}
	return err
}

func (s *scenario) checkLedger(ctx context.Context, expected int64) error {
	listed, err := s.wallets.ListWalletEntries(ctx, &pb.ListWalletEntriesRequest{UserId: s.userID})
	if err != nil {
		return err
	}
	var kinds []pb.WalletEntryKind
	var total int64
	for _, entry := range listed.GetEntries() {
		kinds = append(kinds, entry.GetKind())
		total += entry.GetAmount()
	}
	newestFirst := []pb.WalletEntryKind{
		pb.WalletEntryKind_WALLET_ENTRY_KIND_REFUND,
		pb.WalletEntryKind_WALLET_ENTRY_KIND_PAYMENT,
		pb.WalletEntryKind_WALLET_ENTRY_KIND_CHARGE,
	}
	if fmt.Sprint(kinds) != fmt.Sprint(newestFirst) {
		return fmt.Errorf("the ledger should show %v, not %v", newestFirst, kinds)
	}
	if total != expected {
		return fmt.Errorf("the ledger should add up to %d, not %d", expected, total)
	}
	return nil
}

// refused returns the failure of a call that has to fail for this reason.
func refused(err error, reason string) (failure, error) {
	if err == nil {
		return failure{}, fmt.Errorf("a call should fail with %s, and succeeded", reason)
	}
	f := failureOf(err)
	if f.reason != reason {
		return f, fmt.Errorf("a call should fail with %s, and failed with %v", reason, f)
	}
	return f, nil
}

// bearing returns a context whose calls show the queue token to the server.
func bearing(ctx context.Context, token *pb.QueueToken) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.GetToken())
}

func seatNumbers(seats []*pb.Seat) []int32 {
	numbers := make([]int32, 0, len(seats))
	for _, seat := range seats {
		numbers = append(numbers, seat.GetSeatNumber())
	}
	return numbers
}
