// PUTs each file named behind the URL to URL/<number>, as HTTP/2 by upgrade, and GETs it again; prints both statuses and
// the size that came back.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.util.Arrays;
import java.nio.file.Files;

public class Put {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int number = 1; number < arguments.length; number++) {
            URI target = URI.create(arguments[0] + "/" + number);
            Path file = Path.of(arguments[number]);
            HttpRequest put = HttpRequest.newBuilder(target).PUT(HttpRequest.BodyPublishers.ofFile(file)).build();
            int status = client.send(put, HttpResponse.BodyHandlers.discarding()).statusCode();
            HttpRequest get = HttpRequest.newBuilder(target).GET().build();
            HttpResponse<byte[]> back = client.send(get, HttpResponse.BodyHandlers.ofByteArray());
            boolean same = Arrays.equals(back.body(), Files.readAllBytes(file));
            System.out.println(status + " " + back.statusCode() + " " + same);
        }
    }
}
