package boxoffice.client;

import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.time.Instant;
import java.util.function.Supplier;

/** Makes calls again when boxoffice says that they may succeed later. */
final class Patience {
    private static final Duration LIMIT = Duration.ofSeconds(30);

    private Patience() {}

    /** Makes a call, again and again while its failure says when to retry, for at most 30 seconds. */
    static <T> T patiently(Supplier<T> call) throws InterruptedException {
        Instant giveUpAt = Instant.now().plus(LIMIT);
        while (true) {
            try {
                return call.get();
            } catch (StatusRuntimeException exception) {
                Failure failure = Failure.of(exception);
                Duration delay = failure.retryDelay().orElseThrow(() -> exception);
                if (Instant.now().plus(delay).isAfter(giveUpAt)) {
                    throw exception;
                }
                System.out.printf("   waiting %s, since the call failed with %s%n", seconds(delay), failure.reason());
                Thread.sleep(delay.toMillis());
            }
        }
    }

    static String seconds(Duration delay) {
        return "%.1f s".formatted(delay.toMillis() / 1000.0);
    }
}
