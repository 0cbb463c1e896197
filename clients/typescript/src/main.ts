/** Buys two seats from boxoffice and gives them back, as ../SCENARIO.md tells: `npm start 127.0.0.1:50051`. */

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import {
  type Channel,
  ChannelCredentials,
  ClientError,
  type Client,
  createChannel,
  createClientFactory,
  Metadata,
  Status,
} from "nice-grpc";
import { errorDetailsClientMiddleware } from "nice-grpc-error-details";
import { Failure, patiently, seconds } from "./failure.js";
import { ConcertServiceDefinition, type Seat, SeatState } from "./generated/boxoffice/v1/concert_service.js";
import { type Payment, PaymentServiceDefinition, PaymentState } from "./generated/boxoffice/v1/payment_service.js";
import { QueueServiceDefinition, QueueState, type QueueToken } from "./generated/boxoffice/v1/queue_service.js";
import {
  type Reservation,
  ReservationServiceDefinition,
  ReservationState,
} from "./generated/boxoffice/v1/reservation_service.js";
import { WalletEntryKind, WalletServiceDefinition } from "./generated/boxoffice/v1/wallet_service.js";

const CONCERT_CODE = "IU-2034";
const SERVICE_CONFIG = new URL("../../../proto/service_config.json", import.meta.url);
const WATCH_MILLIS = 60_000;
/** How long to wait before a broken stream is opened again, where the server did not say. */
const WATCH_RETRY_MILLIS = 1_000;

/** The server did not do what the scenario says. */
class CheckFailed extends Error {}

function check(holds: boolean, sentence: string): asserts holds {
  if (!holds) throw new CheckFailed(sentence);
}

/** The value of a field that a good answer always has. */
function present<T>(value: T | undefined): T {
  check(value !== undefined, "an answer lacks its message");
  return value;
}

/** Makes a call that has to fail for this reason, and returns the failure. */
async function refused(reason: string, call: () => Promise<unknown>): Promise<Failure> {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    const failure = new Failure(error);
    check(failure.reason === reason, `a call should fail with ${reason}, and failed with ${failure}`);
    return failure;
  }
  throw new CheckFailed(`a call should fail with ${reason}, and succeeded`);
}

function tell(step: number, sentence: string): void {
  console.log(`${String(step).padStart(2)} ${sentence}`);
}

/** The options of a call that show the queue token to the server. */
function bearing({ token }: QueueToken) {
  return { metadata: new Metadata({ authorization: `Bearer ${token}` }) };
}

/** One user's way through the services, over one channel. */
class Scenario {
  private readonly queue: Client<QueueServiceDefinition>;
  private readonly concerts: Client<ConcertServiceDefinition>;
  private readonly reservations: Client<ReservationServiceDefinition>;
  private readonly wallets: Client<WalletServiceDefinition>;
  private readonly payments: Client<PaymentServiceDefinition>;
  private readonly userId = randomUUID();

  constructor(channel: Channel) {
    const clients = createClientFactory().use(errorDetailsClientMiddleware);
    this.queue = clients.create(QueueServiceDefinition, channel);
    this.concerts = clients.create(ConcertServiceDefinition, channel);
    this.reservations = clients.create(ReservationServiceDefinition, channel);
    this.wallets = clients.create(WalletServiceDefinition, channel);
    this.payments = clients.create(PaymentServiceDefinition, channel);
  }

  async play(): Promise<void> {
    await this.openWallet();
    await this.readViolations();
    const token = await this.takeToken();
    await this.comeTooEarly(token);
    await this.waitForAdmission(token);
    const seats = await this.chooseSeats(token);
    const rivalToken = await this.letRivalHold(seats[0]);
    const reservation = await this.hold(token, seats);
    await this.payFromEmptyWallet(token, reservation);
    await this.charge(reservation.totalPrice);
    const payment = await this.pay(token, reservation);
    await this.lookAt(payment);
    await this.refund(payment);
    await this.holdBest(rivalToken, reservation.date);
    await this.leaveQueue(rivalToken);
  }

  private async openWallet(): Promise<void> {
    const wallet = present((await this.wallets.openWallet({ userId: this.userId })).wallet);
    check(wallet.balance === 0n, `a new wallet should be empty, and holds ${wallet.balance}`);
    const again = await this.wallets.openWallet({ userId: this.userId });
    check(isDeepStrictEqual(again.wallet, wallet), "opening a wallet again should return the same wallet");
    tell(1, `opened a wallet in ${wallet.currencyCode} for user ${this.userId}`);
  }

  private async readViolations(): Promise<void> {
    const { violations } = await refused("INVALID_ARGUMENT", () =>
      this.wallets.chargeWallet({ userId: "nobody", amount: -1n }),
    );
    const fields = Object.keys(violations).sort();
    check(isDeepStrictEqual(fields, ["amount", "user_id"]), `user_id and amount are wrong, not ${fields}`);
    tell(2, `read what is wrong with a request: amount ${violations["amount"]}`);
  }

  private async takeToken(): Promise<QueueToken> {
    const request = { concertCode: CONCERT_CODE, userId: this.userId };
    const token = present((await this.queue.issueToken(request)).token);
    check(token.state === QueueState.WAITING, "a new token should wait");
    const again = await this.queue.issueToken(request);
    check(isDeepStrictEqual(again.token, token), "a second IssueToken should return the first token");
    tell(3, `took token number ${token.queueNumber} of ${CONCERT_CODE}`);
    return token;
  }

  private async comeTooEarly(token: QueueToken): Promise<void> {
    const request = { concertCode: CONCERT_CODE, userId: this.userId };
    const { metadata, retryMillis = 0 } = await refused("NOT_ADMITTED", () =>
      this.concerts.listPerformances(request, bearing(token)),
    );
    const named = metadata["queue_number"];
    check(named === String(token.queueNumber), `NOT_ADMITTED should name the token's number, not ${named}`);
    check(retryMillis > 0, "NOT_ADMITTED should say when to try again");
    tell(4, `came too early: try again in ${seconds(retryMillis)}`);
  }

  /** Watches the token until it is admitted. A stream that breaks is opened again: the place is kept. */
  private async waitForAdmission(token: QueueToken): Promise<void> {
    const request = { concertCode: CONCERT_CODE, userId: this.userId };
    const options = { ...bearing(token), signal: AbortSignal.timeout(WATCH_MILLIS) };
    let asked = false;
    for (let breaks = 0; ; breaks++) {
      try {
        for await (const message of this.queue.watchPosition(request, options)) {
          const { state, position, queueNumber } = present(message.position);
          check(queueNumber === token.queueNumber, "the token's number should stay the same");
          if (state === QueueState.ACTIVE) {
            check(breaks > 0, "the token was admitted before the server was restarted");
            return tell(5, `admitted, after the stream broke (${breaks})`);
          }
          check(state === QueueState.WAITING, "the token should wait until it is admitted");
          if (!asked) {
            asked = true;
            tell(5, `waiting at position ${position}`);
            console.log("restart the server");
          }
        }
      } catch (error) {
        if (!(error instanceof ClientError)) throw error;
        const { code, retryMillis } = new Failure(error);
        if (code !== Status.UNAVAILABLE && retryMillis === undefined) throw error;
        await sleep(retryMillis ?? WATCH_RETRY_MILLIS);
      }
    }
  }

  private async chooseSeats(token: QueueToken): Promise<[Seat, Seat]> {
    const request = { concertCode: CONCERT_CODE, userId: this.userId };
    const { performances } = await this.concerts.listPerformances(request, bearing(token));
    const { date, seatCount, availableSeatCount } = present(performances[0]);
    const { seats } = await this.concerts.listSeats({ ...request, date }, bearing(token));
    check(seats.length === seatCount, `ListSeats should list ${seatCount} seats, not ${seats.length}`);
    const available = seats.filter(({ state }) => state === SeatState.AVAILABLE);
    const count = available.length;
    check(count === availableSeatCount, `ListSeats should list ${availableSeatCount} available seats, not ${count}`);
    const [first, second] = available;
    check(first !== undefined && second !== undefined, "two seats should be available");
    tell(6, `chose seats ${first.seatNumber} and ${second.seatNumber} of ${count} on ${date}`);
    return [first, second];
  }

  /** Another user holds one of the chosen seats, as soon as it is admitted. */
  private async letRivalHold({ date, seatNumber }: Seat): Promise<QueueToken> {
    const userId = randomUUID();
    await this.wallets.openWallet({ userId });
    const token = present((await this.queue.issueToken({ concertCode: CONCERT_CODE, userId })).token);
    const request = {
      concertCode: CONCERT_CODE,
      userId,
      date,
      seatNumbers: [seatNumber],
      requestId: randomUUID(),
    };
    await patiently(() => this.reservations.holdSeats(request, bearing(token)));
    tell(7, `a rival holds seat ${seatNumber}`);
    return token;
  }

  private async hold(token: QueueToken, seats: [Seat, Seat]): Promise<Reservation> {
    const request = {
      concertCode: CONCERT_CODE,
      userId: this.userId,
      date: seats[0].date,
      seatNumbers: seats.map(({ seatNumber }) => seatNumber),
      requestId: randomUUID(),
    };
    const hold = () => this.reservations.holdSeats(request, bearing(token));
    const { metadata } = await refused("SEAT_HELD", hold);
    const taken = metadata["seat_numbers"];
    check(taken === String(seats[0].seatNumber), `SEAT_HELD should name seat ${seats[0].seatNumber}, not ${taken}`);
    const reservation = present((await patiently(hold)).reservation);
    check(reservation.state === ReservationState.HELD, "the reservation should be HELD");
    const price = seats[0].price + seats[1].price;
    check(reservation.totalPrice === price, `two seats cost ${price}, not ${reservation.totalPrice}`);
    const again = await hold();
    check(
      isDeepStrictEqual(again.reservation, reservation),
      "a hold with the same request_id should return the same reservation",
    );
    tell(8, `hold reservation ${reservation.reservationId} for ${price}`);
    return reservation;
  }

  private async payFromEmptyWallet(token: QueueToken, { reservationId, totalPrice }: Reservation): Promise<void> {
    const request = { userId: this.userId, reservationId, requestId: randomUUID() };
    const { metadata } = await refused("INSUFFICIENT_BALANCE", () => this.payments.pay(request, bearing(token)));
    check(metadata["balance"] === "0", `the wallet holds 0, not ${metadata["balance"]}`);
    check(metadata["price"] === String(totalPrice), `the price is ${totalPrice}, not ${metadata["price"]}`);
    tell(9, `could not pay: the wallet holds ${metadata["balance"]} of ${metadata["price"]}`);
  }

  private async charge(amount: bigint): Promise<void> {
    const request = { userId: this.userId, amount, requestId: randomUUID() };
    const charged = await this.wallets.chargeWallet(request);
    check(charged.balance === amount, `the wallet should hold ${amount}, not ${charged.balance}`);
    const again = await this.wallets.chargeWallet(request);
    check(isDeepStrictEqual(again, charged), "a charge with the same request_id should be booked once");
    await refused("REQUEST_ID_CONFLICT", () => this.wallets.chargeWallet({ ...request, amount: amount + 1n }));
    tell(10, `charged the wallet with ${amount}, once`);
  }

  private async pay(token: QueueToken, { reservationId, totalPrice, seats }: Reservation): Promise<Payment> {
    const request = { userId: this.userId, reservationId, requestId: randomUUID() };
    const payment = present((await this.payments.pay(request, bearing(token))).payment);
    check(payment.state === PaymentState.PAID, "the payment should be PAID");
    check(payment.price === totalPrice, `${totalPrice} is due, not ${payment.price}`);
    const seatNumbers = seats.map(({ seatNumber }) => seatNumber);
    check(
      isDeepStrictEqual(payment.seatNumbers, seatNumbers),
      `seats ${seatNumbers} are paid for, not ${payment.seatNumbers}`,
    );
    await this.checkBalance(0n);
    tell(11, `paid ${payment.price} for seats ${seatNumbers}`);
    return payment;
  }

  private async lookAt(payment: Payment): Promise<void> {
    const shown = await this.payments.getPayment({ userId: this.userId, paymentId: payment.paymentId });
    check(isDeepStrictEqual(shown.payment, payment), "GetPayment should show the payment as it was paid");
    tell(12, `looked at payment ${payment.paymentId}`);
  }

  private async refund({ paymentId, price }: Payment): Promise<void> {
    const request = { userId: this.userId, paymentId, requestId: randomUUID() };
    const refunded = present((await this.payments.refundPayment(request)).payment);
    check(refunded.state === PaymentState.REFUNDED, "the payment should be REFUNDED");
    await this.checkBalance(price);
    const { entries } = await this.wallets.listWalletEntries({ userId: this.userId });
    const kinds = entries.map(({ kind }) => kind);
    const expected = [WalletEntryKind.REFUND, WalletEntryKind.PAYMENT, WalletEntryKind.CHARGE];
    check(isDeepStrictEqual(kinds, expected), "the ledger should show a refund, a payment and a charge");
    const total = entries.reduce((sum, { amount }) => sum + amount, 0n);
    check(total === price, `the ledger should add up to ${price}, not ${total}`);
    tell(13, `got ${price} back`);
  }

  private async holdBest(rivalToken: QueueToken, date: string): Promise<void> {
    const request = {
      concertCode: CONCERT_CODE,
      userId: rivalToken.userId,
      date,
      bestAvailable: { seatCount: 2 },
      requestId: randomUUID(),
    };
    const hold = () => this.reservations.holdSeats(request, bearing(rivalToken));
    const reservation = present((await hold()).reservation);
    const [first, second] = reservation.seats;
    check(first !== undefined && second !== undefined, "two seats should be held");
    check(first.row === second.row, `both seats should be in one row, not in ${first.row} and ${second.row}`);
    const numbers = [first.numberInRow, second.numberInRow];
    check(second.numberInRow === first.numberInRow + 1, `the seats should be adjacent, not ${numbers}`);
    const again = await hold();
    check(
      isDeepStrictEqual(again.reservation, reservation),
      "a request with the same request_id should return the same seats",
    );
    tell(14, `the rival holds the best seats, ${numbers.join(" and ")} of row ${first.row}`);
  }

  private async leaveQueue(rivalToken: QueueToken): Promise<void> {
    await this.queue.leaveQueue({ concertCode: CONCERT_CODE, userId: rivalToken.userId }, bearing(rivalToken));
    tell(15, "the rival left the queue");
  }

  private async checkBalance(expected: bigint): Promise<void> {
    const { balance } = await this.wallets.getBalance({ userId: this.userId });
    check(balance === expected, `the wallet should hold ${expected}, not ${balance}`);
  }
}

const address = process.argv[2] ?? "127.0.0.1:50051";
const channel = createChannel(address, ChannelCredentials.createInsecure(), {
  "grpc.service_config": readFileSync(SERVICE_CONFIG, "utf8"),
});
try {
  await new Scenario(channel).play();
} catch (error) {
  if (error instanceof CheckFailed) console.error(`check failed: ${error.message}`);
  else if (error instanceof ClientError) console.error(`a call failed: ${new Failure(error)}`);
  else throw error;
  process.exitCode = 1;
} finally {
  channel.close();
}
