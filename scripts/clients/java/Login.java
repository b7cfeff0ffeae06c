// jnats through weir, with every way to log in: connect, publish, request, reconnect. Usage: java Login.java CELLS.tsv
import io.nats.client.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicReference;
import javax.net.ssl.*;

public class Login {
    record Cell(Map<String, String> keys) {
        String get(String key) { return keys.getOrDefault(key, ""); }
    }

    /** A line for each cell, a key=value for each field, tabs between: Java has no JSON of its own. */
    static List<Cell> read(String path) throws Exception {
        List<Cell> cells = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(path))) {
            Map<String, String> keys = new HashMap<>();
            for (String field : line.split("\t")) {
                int at = field.indexOf('=');
                if (at > 0) keys.put(field.substring(0, at), field.substring(at + 1));
            }
            cells.add(new Cell(keys));
        }
        return cells;
    }

    static void credentials(Cell cell, Options.Builder options) throws Exception {
        switch (cell.get("kind")) {
            case "user" -> options.userInfo(cell.get("user"), cell.get("password"));
            case "token" -> options.token(cell.get("token").toCharArray());
            case "nkey" -> options.authHandler(Nats.staticCredentials(null, Files.readString(Path.of(cell.get("seed_file"))).trim().toCharArray()));
            case "creds" -> options.authHandler(Nats.credentials(cell.get("creds_file")));
            case "bearer" -> options.authHandler(new AuthHandler() {
                public byte[] sign(byte[] nonce) { return new byte[0]; }
                public char[] getID() { return new char[0]; }
                public char[] getJWT() { return cell.get("jwt").toCharArray(); }
            });
            default -> { }
        }
    }

    static void secure(Cell cell, Options.Builder options) throws Exception {
        if (cell.get("ca_file").isEmpty()) return;
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (var pem = Files.newInputStream(Path.of(cell.get("ca_file")))) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory judges = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        judges.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, judges.getTrustManagers(), null);
        options.sslContext(context);
        if (!cell.get("first").isEmpty()) options.tlsFirst();
    }

    /** The library's own exception says only that there is no connection. */
    static Throwable root(Throwable error) {
        while (error.getCause() != null) error = error.getCause();
        return error;
    }

    /** A message and a request, each answered by the client itself. */
    static void use(Connection nc, String name) throws Exception {
        String subject = "login.java." + name;
        Dispatcher dispatcher = nc.createDispatcher(message -> {
            if (message.getReplyTo() != null) nc.publish(message.getReplyTo(), message.getData());
        });
        dispatcher.subscribe(subject);
        nc.flush(Duration.ofSeconds(20));
        nc.publish(subject, "nobody asks".getBytes());
        Message reply = nc.request(subject, "who".getBytes(), Duration.ofSeconds(20));
        if (reply == null || !"who".equals(new String(reply.getData(), StandardCharsets.UTF_8))) throw new Exception("no reply");
        nc.closeDispatcher(dispatcher);
    }

    static void run(Cell cell, CountDownLatch connecting) {
        boolean counted = false;
        AtomicReference<Throwable> heard = new AtomicReference<>();
        try {
            CountDownLatch again = new CountDownLatch(1);
            Options.Builder options = new Options.Builder().server(cell.get("url")).maxReconnects(60)
                .connectionTimeout(Duration.ofSeconds(20))
                .errorListener(new ErrorListener() {
                    public void exceptionOccurred(Connection nc, Exception error) { heard.set(root(error)); }
                })
                .connectionListener((nc, event) -> { if (event == ConnectionListener.Events.RECONNECTED) again.countDown(); });
            credentials(cell, options);
            secure(cell, options);
            try (Connection nc = Nats.connect(options.build())) {
                use(nc, cell.get("name"));
                if (!cell.get("bad").isEmpty()) throw new Exception("none: it is in");
                counted = true;
                connecting.countDown();
                if (!again.await(100, TimeUnit.SECONDS)) throw new Exception("no reconnect: " + nc.getLastError());
                use(nc, cell.get("name"));
            }
            System.out.println(cell.get("name") + ": OK");
        } catch (Throwable error) {
            Throwable said = cell.get("bad").isEmpty() || heard.get() == null ? error : heard.get();
            System.out.println(cell.get("name") + ": FAILED " + said);
            if (!counted) connecting.countDown();
        }
    }

    public static void main(String[] args) throws Exception {
        List<Cell> cells = read(args[0]);
        CountDownLatch connecting = new CountDownLatch(cells.size());
        ExecutorService all = Executors.newCachedThreadPool();
        for (Cell cell : cells) all.submit(() -> run(cell, connecting));
        connecting.await();
        System.out.println("READY");
        System.out.flush();
        all.shutdown();
        all.awaitTermination(150, TimeUnit.SECONDS);
        System.exit(0);
    }
}
