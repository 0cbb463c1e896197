"""Shows which calls the channel repeats by itself, as ../SCENARIO.md tells: `retries.py 127.0.0.1:50051`."""

import sys
import time
import uuid

import grpc

from boxoffice.v1.wallet_service_pb2 import ChargeWalletRequest, GetBalanceRequest, OpenWalletRequest
from boxoffice.v1.wallet_service_pb2_grpc import WalletServiceStub
from failure import Failure
from main import SERVICE_CONFIG, CheckFailed, check

# The shortest delay that an overloaded server asks for. The backoff of the service config is shorter at first.
SHORTEST_PUSHBACK_SECONDS = 0.25
AMOUNT = 1000


def ask(line: str) -> str:
    """Asks clients/run for a fault or a count, and returns its answer."""
    print(line, flush=True)
    return sys.stdin.readline().strip()


class Retries:
    """The charges of one user, over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.wallets = WalletServiceStub(channel)
        self.user_id = str(uuid.uuid4())

    def play(self) -> None:
        self.wallets.OpenWallet(OpenWalletRequest(user_id=self.user_id))
        self.charge_a_busy_server()
        self.charge_without_request_id()
        self.charge_with_request_id()
        balance = self.wallets.GetBalance(GetBalanceRequest(user_id=self.user_id)).balance
        check(balance == 4 * AMOUNT, f"four charges should have an effect, and the balance is {balance}")
        print("4 each charge that succeeded had one effect", flush=True)

    def request(self, request_id: str) -> ChargeWalletRequest:
        return ChargeWalletRequest(user_id=self.user_id, amount=AMOUNT, request_id=request_id)

    def charge_a_busy_server(self) -> None:
        ask("lock the database until a call is refused")
        first = self.wallets.ChargeWallet.future(self.request(str(uuid.uuid4())))
        time.sleep(0.2)
        started = time.monotonic()
        self.wallets.ChargeWallet(self.request(str(uuid.uuid4())))
        seconds = time.monotonic() - started
        first.result()
        count = int(ask("count the refused calls"))
        check(count == 1, f"one attempt should be refused, and {count} were")
        check(seconds >= SHORTEST_PUSHBACK_SECONDS, f"the channel repeated the call too early, after {seconds:.2f} s")
        print(f"1 the channel repeated an OVERLOADED call, which succeeded after {seconds:.2f} s", flush=True)

    def charge_without_request_id(self) -> None:
        ask("fill the disk until a call fails")
        try:
            self.wallets.ChargeWallet(self.request(""))
        except grpc.RpcError as error:
            failure = Failure.of(error)
            check(failure.reason == "STORAGE_UNAVAILABLE", f"the outcome should be unknown, but the call: {failure}")
            pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
            check(pushback == "-1", f"the server should forbid a retry, and its pushback is {pushback}")
        else:
            raise CheckFailed("a charge should fail on a full disk, and succeeded")
        self.check_unknown_outcomes(1)
        print("2 the channel did not repeat a charge with an unknown outcome and without a request_id", flush=True)

    def charge_with_request_id(self) -> None:
        # The server works again.
        self.wallets.ChargeWallet(self.request(str(uuid.uuid4())))
        ask("fill the disk until a call fails")
        self.wallets.ChargeWallet(self.request(str(uuid.uuid4())))
        self.check_unknown_outcomes(2)
        print("3 the channel repeated a charge with an unknown outcome and a request_id", flush=True)

    def check_unknown_outcomes(self, expected: int) -> None:
        """Checks how many attempts failed so far, each with an unknown outcome."""
        failed, unknown = int(ask("count the failed calls")), int(ask("count the unknown outcomes"))
        check(failed == expected, f"{expected} attempts should have failed, and {failed} did")
        check(unknown == expected, f"{expected} outcomes should be unknown, and {unknown} are")


def main() -> None:
    [address] = sys.argv[1:]
    options = [("grpc.service_config", SERVICE_CONFIG.read_text())]
    with grpc.insecure_channel(f"dns:///{address}", options) as channel:
        try:
            Retries(channel).play()
        except CheckFailed as failed:
            sys.exit(str(failed))
        except grpc.RpcError as error:
            sys.exit(f"a call failed: {Failure.of(error)}")


if __name__ == "__main__":
    main()
