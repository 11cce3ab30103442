// Posts once, however often it has to ask. Java 17 or newer: `java Retry.java URL KEY TIMEOUT`.

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Pattern;

public class Retry {
    private static final int ATTEMPTS = 6;
    private static final Set<Integer> PASSING = Set.of(408, 425, 429, 502, 503, 504);
    /** Use your JSON library here. */
    private static final Pattern RETRYABLE = Pattern.compile("\"retryable\":\\s*(true|false)");

    private final HttpClient client = HttpClient.newHttpClient();

    /** `key` names the operation: store it with the order before you call. `body` is the same in each attempt. */
    HttpResponse<String> postOnce(URI url, String body, String key, Duration timeout)
            throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(url)
                .timeout(timeout)
                .header("Content-Type", "application/json")
                .header("Idempotency-Key", key)
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
            double pause = ThreadLocalRandom.current().nextDouble(0.5, 1.0) * Math.min(30, 0.5 * (1 << attempt));
            try {
                var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                if (answer.statusCode() < 400 || !mayBeSentAgain(answer)) {
                    return answer;
                }
                pause = answer.headers().firstValueAsLong("Retry-After").orElse((long) Math.ceil(pause));
            } catch (IOException noAnswer) {
                // It may have been done, and only the same key is safe now.
            }
            Thread.sleep((long) (pause * 1000));
        }
        throw new IOException("no final answer to " + key + ": ask again later, with the same key");
    }

    private static boolean mayBeSentAgain(HttpResponse<String> answer) {
        var type = answer.headers().firstValue("Content-Type").orElse("");
        var told = RETRYABLE.matcher(answer.body());
        if (type.startsWith("application/problem+json") && told.find()) {
            return told.group(1).equals("true");
        }
        return PASSING.contains(answer.statusCode());
    }

    public static void main(String[] arguments) throws Exception {
        var timeout = Duration.ofMillis((long) (1000 * Double.parseDouble(arguments[2])));
        var answer = new Retry().postOnce(URI.create(arguments[0]), "{\"amount\":4200}", arguments[1], timeout);
        var replayed = answer.headers().firstValue("Idempotency-Replayed").map(v -> '"' + v + '"').orElse("null");
        System.out.printf("{\"status\":%d,\"replayed\":%s,\"body\":\"%s\"}%n", answer.statusCode(), replayed,
                answer.body().replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n"));
    }
}
