package boxoffice.client;

/** The server did not do what the scenario says. */
final class CheckFailed extends RuntimeException {
    CheckFailed(String sentence) {
        super(sentence);
    }
}
