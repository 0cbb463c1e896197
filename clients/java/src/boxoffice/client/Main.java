package boxoffice.client;

import com.google.gson.Gson;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/** Buys two seats from boxoffice and gives them back, as ../SCENARIO.md tells. */
public final class Main {
    /** Where the deadlines and retries of all calls are, seen from the folder java. */
    private static final Path SERVICE_CONFIG = Path.of("..", "..", "proto", "service_config.json");

    private Main() {}

    public static void main(String[] args) throws IOException, InterruptedException {
        String address = args.length > 0 ? args[0] : "127.0.0.1:50051";
        try {
            play(address);
        } catch (CheckFailed failed) {
            System.err.println("check failed: " + failed.getMessage());
            System.exit(1);
        } catch (StatusRuntimeException exception) {
            System.err.println("a call failed: " + Failure.of(exception));
            System.exit(1);
        }
    }

    private static void play(String address) throws IOException, InterruptedException {
        ManagedChannel channel = ManagedChannelBuilder.forTarget(address)
                .usePlaintext()
                .defaultServiceConfig(serviceConfig())
                .enableRetry()
                .build();
        try {
            new Scenario(channel).play();
        } finally {
            channel.shutdownNow();
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> serviceConfig() throws IOException {
        try (Reader reader = Files.newBufferedReader(SERVICE_CONFIG)) {
            return new Gson().fromJson(reader, Map.class);
        }
    }
}
