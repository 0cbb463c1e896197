package boxoffice.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;

/**
 * A failed call as boxoffice describes it: programs branch on the reason, people read the message.
 *
 * @param retryDelay how long to wait before the same call may succeed; empty where waiting does not help
 * @param violations what is wrong with each field of an ill-formed request
 */
record Failure(
        Status.Code code,
        String message,
        String reason,
        Map<String, String> metadata,
        Optional<Duration> retryDelay,
        Map<String, String> violations) {

    /** Reads the details of a failed call. */
    static Failure of(StatusRuntimeException exception) {
        String reason = "";
        Map<String, String> metadata = Map.of();
        Optional<Duration> retryDelay = Optional.empty();
        Map<String, String> violations = new HashMap<>();
        try {
            for (Any detail : StatusProto.fromThrowable(exception).getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    ErrorInfo info = detail.unpack(ErrorInfo.class);
                    reason = info.getReason();
                    metadata = info.getMetadataMap();
                } else if (detail.is(RetryInfo.class)) {
                    long millis = Durations.toMillis(detail.unpack(RetryInfo.class).getRetryDelay());
                    retryDelay = Optional.of(Duration.ofMillis(millis));
                } else if (detail.is(BadRequest.class)) {
                    for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
                        violations.put(violation.getField(), violation.getDescription());
                    }
                }
            }
        } catch (InvalidProtocolBufferException e) {
            throw new IllegalStateException("the details of a failure cannot be read", e);
        }
        Status status = exception.getStatus();
        return new Failure(status.getCode(), status.getDescription(), reason, metadata, retryDelay, violations);
    }

    @Override
    public String toString() {
        return "%s %s: %s".formatted(code, reason.isEmpty() ? "(no reason)" : reason, message);
    }
}
