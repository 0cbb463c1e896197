/** Reads what boxoffice says about a failed call, and makes calls again when it says that they may succeed later. */

import { setTimeout as sleep } from "node:timers/promises";
import { ClientError, Status } from "nice-grpc";
import { BadRequest, ErrorInfo, RetryInfo, RichClientError } from "nice-grpc-error-details";

/** A failed call: programs branch on `reason`, people read `message`. */
export class Failure {
  readonly code: Status;
  readonly message: string;
  readonly reason: string = "";
  readonly metadata: Record<string, string> = {};
  /** How long to wait before the same call may succeed; undefined where waiting does not help. */
  readonly retryMillis: number | undefined;
  /** What is wrong with each field of an ill-formed request. */
  readonly violations: Record<string, string> = {};

  constructor(error: ClientError) {
    this.code = error.code;
    this.message = error.details;
    for (const detail of error instanceof RichClientError ? error.extra : []) {
      if (detail.$type === ErrorInfo.$type) {
        this.reason = detail.reason;
        this.metadata = detail.metadata;
      } else if (detail.$type === RetryInfo.$type && detail.retryDelay) {
        this.retryMillis = Number(detail.retryDelay.seconds) * 1_000 + detail.retryDelay.nanos / 1_000_000;
      } else if (detail.$type === BadRequest.$type) {
        for (const { field, description } of detail.fieldViolations) this.violations[field] = description;
      }
    }
  }

  toString(): string {
    return `${Status[this.code]} ${this.reason || "(no reason)"}: ${this.message}`;
  }
}

/** Makes a call, again and again while its failure says when to retry, for at most `patienceMillis`. */
export async function patiently<T>(call: () => Promise<T>, patienceMillis = 30_000): Promise<T> {
  const giveUpAt = Date.now() + patienceMillis;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      const { reason, retryMillis } = new Failure(error);
      if (retryMillis === undefined || Date.now() + retryMillis > giveUpAt) throw error;
      console.log(`   waiting ${seconds(retryMillis)}, since the call failed with ${reason}`);
      await sleep(retryMillis);
    }
  }
}

export function seconds(millis: number): string {
  return `${(millis / 1_000).toFixed(1)} s`;
}
