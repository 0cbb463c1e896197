/** Shows which calls @grpc/grpc-js repeats by itself, as ../SCENARIO.md tells: `retries.ts 127.0.0.1:50051`. */

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, credentials, type MethodDefinition, type ServiceError, status } from "@grpc/grpc-js";
import {
  ChargeWalletRequest,
  ChargeWalletResponse,
  GetBalanceRequest,
  GetBalanceResponse,
  OpenWalletRequest,
  OpenWalletResponse,
} from "./generated/boxoffice/v1/wallet_service.js";

const SERVICE_CONFIG = new URL("../../../proto/service_config.json", import.meta.url);
/** The shortest delay that an overloaded server asks for. The backoff of the service config is shorter at first. */
const SHORTEST_PUSHBACK_MILLIS = 250;
const AMOUNT = 1_000n;

/** The server or the channel did not do what the scenario says. */
class CheckFailed extends Error {}

function check(holds: boolean, sentence: string): asserts holds {
  if (!holds) throw new CheckFailed(sentence);
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks clients/run for a fault or a count, and returns its answer. */
async function ask(line: string): Promise<string> {
  console.log(line);
  return (await answers.next()).value;
}

/** The messages of a method, as ts-proto generates them. */
interface Message<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/** One method of WalletService. */
type Method<Request, Response> = Pick<
  MethodDefinition<Request, Response>,
  "path" | "requestSerialize" | "responseDeserialize"
>;

function method<Request, Response>(
  name: string,
  request: Message<Request>,
  response: Message<Response>,
): Method<Request, Response> {
  return {
    path: `/boxoffice.v1.WalletService/${name}`,
    requestSerialize: (message) => Buffer.from(request.encode(message).finish()),
    responseDeserialize: (bytes) => response.decode(bytes),
  };
}

const OPEN_WALLET = method("OpenWallet", OpenWalletRequest, OpenWalletResponse);
const GET_BALANCE = method("GetBalance", GetBalanceRequest, GetBalanceResponse);
const CHARGE_WALLET = method("ChargeWallet", ChargeWalletRequest, ChargeWalletResponse);

/** The charges of one user, over one channel. */
class Retries {
  private readonly userId = randomUUID();

  constructor(private readonly client: Client) {}

  async play(): Promise<void> {
    await this.call(OPEN_WALLET, { userId: this.userId });
    await this.chargeBusyServer();
    await this.chargeWithoutRequestId();
    await this.chargeWithRequestId();
    const { balance } = await this.call(GET_BALANCE, { userId: this.userId });
    check(balance === 4n * AMOUNT, `four charges should have an effect, and the balance is ${balance}`);
    console.log("4 each charge that succeeded had one effect");
  }

  private call<Request, Response>(method: Method<Request, Response>, request: Request): Promise<Response> {
    const { path, requestSerialize, responseDeserialize } = method;
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, (error, response) => {
        if (response === undefined) reject(error);
        else resolve(response);
      });
    });
  }

  private charge(requestId: string): Promise<ChargeWalletResponse> {
    return this.call(CHARGE_WALLET, { userId: this.userId, amount: AMOUNT, requestId });
  }

  private async chargeBusyServer(): Promise<void> {
    await ask("lock the database until a call is refused");
    const first = this.charge(randomUUID());
    await sleep(200);
    const started = performance.now();
    await this.charge(randomUUID());
    const millis = performance.now() - started;
    await first;
    const count = Number(await ask("count the refused calls"));
    check(count === 1, `one attempt should be refused, and ${count} were`);
    const seconds = (millis / 1_000).toFixed(2);
    check(millis >= SHORTEST_PUSHBACK_MILLIS, `the channel repeated the call too early, after ${seconds} s`);
    console.log(`1 the channel repeated an OVERLOADED call, which succeeded after ${seconds} s`);
  }

  private async chargeWithoutRequestId(): Promise<void> {
    await ask("fill the disk until a call fails");
    const error: ServiceError = await this.charge("").then(
      () => Promise.reject(new CheckFailed("a charge should fail on a full disk, and succeeded")),
      (error) => error,
    );
    check(error.code === status.UNAVAILABLE, `the outcome should be unknown, but the call: ${error.message}`);
    const pushback = error.metadata.get("grpc-retry-pushback-ms");
    check(pushback[0] === "-1", `the server should forbid a retry, and its pushback is ${pushback}`);
    await this.checkUnknownOutcomes(1);
    console.log("2 the channel did not repeat a charge with an unknown outcome and without a requestId");
  }

  private async chargeWithRequestId(): Promise<void> {
    // The server works again.
    await this.charge(randomUUID());
    await ask("fill the disk until a call fails");
    await this.charge(randomUUID());
    await this.checkUnknownOutcomes(2);
    console.log("3 the channel repeated a charge with an unknown outcome and a requestId");
  }

  /** Checks how many attempts failed so far, each with an unknown outcome. */
  private async checkUnknownOutcomes(expected: number): Promise<void> {
    const failed = Number(await ask("count the failed calls"));
    check(failed === expected, `${expected} attempts should have failed, and ${failed} did`);
    const unknown = Number(await ask("count the unknown outcomes"));
    check(unknown === expected, `${expected} outcomes should be unknown, and ${unknown} are`);
  }
}

const client = new Client(`dns:///${process.argv[2]}`, credentials.createInsecure(), {
  "grpc.service_config": readFileSync(SERVICE_CONFIG, "utf8"),
});
try {
  await new Retries(client).play();
} catch (error) {
  if (!(error instanceof CheckFailed) && !(error instanceof Error && "code" in error)) throw error;
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.close();
  // An open standard input would keep the program running.
  process.stdin.destroy();
}
