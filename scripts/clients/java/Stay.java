// jnats through weir, while its session is moved from server to server: subscribes, works for a queue, asks,
// publishes to JetStream and reads from it, until it is told to end. Prints READY, and at the end what it has had,
// as JSON. Usage: java Stay.java nats://HOST:PORT
import io.nats.client.*;
import io.nats.client.api.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Stay {
    static byte[] bytes(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    static String text(Message message) { return new String(message.getData(), StandardCharsets.UTF_8); }

    interface Work { void run() throws Exception; }

    static Thread loop(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exception error) {
                error.printStackTrace();
                System.exit(1);
            }
        });
        thread.start();
        return thread;
    }

    public static void main(String[] args) throws Exception {
        Thread last = new Thread(() -> {
            try {
                Thread.sleep(170_000);
            } catch (InterruptedException none) {
                return;
            }
            System.err.println("jnats: no end within 170 s");
            Runtime.getRuntime().halt(1);
        });
        last.setDaemon(true);
        last.start();
        AtomicInteger disconnects = new AtomicInteger(), published = new AtomicInteger();
        AtomicInteger asked = new AtomicInteger(), unanswered = new AtomicInteger();
        List<String> all = Collections.synchronizedList(new ArrayList<>());
        List<String> jobs = Collections.synchronizedList(new ArrayList<>());
        AtomicInteger unconfirmed = new AtomicInteger();
        Set<Integer> read = new ConcurrentSkipListSet<>();
        CountDownLatch end = new CountDownLatch(1);
        Options options = new Options.Builder().server(args[0]).connectionName("stay-java").connectionTimeout(Duration.ofSeconds(20))
            .connectionListener((connection, event) -> {
                if (event == ConnectionListener.Events.DISCONNECTED && end.getCount() > 0) disconnects.incrementAndGet();
            })
            .errorListener(new ErrorListener() {}).build();
        Connection client = Nats.connect(options);
        Dispatcher dispatcher = client.createDispatcher();
        dispatcher.subscribe("moves.all", message -> {
            if (text(message).equals("end")) end.countDown();
            else all.add(text(message));
        });
        dispatcher.subscribe("moves.jobs", "workers", message -> jobs.add(text(message)));
        client.flush(Duration.ofSeconds(10));
        JetStream js = client.jetStream(JetStreamOptions.builder().requestTimeout(Duration.ofSeconds(5)).build());
        List<Thread> loops = List.of(
            loop(() -> {
                while (end.getCount() > 0) {
                    asked.incrementAndGet();
                    Message answer = client.request("moves.echo", bytes("java"), Duration.ofSeconds(10));
                    if (answer == null || !text(answer).equals("java")) unanswered.incrementAndGet();
                    Thread.sleep(20);
                }
            }),
            loop(() -> {
                while (end.getCount() > 0) {
                    String number = String.valueOf(published.get());
                    try {
                        // JetStream drops what comes twice under one id, where an acknowledgement was lost.
                        js.publish("moves.js.java", bytes(number), PublishOptions.builder().messageId("java" + number).build());
                        published.incrementAndGet();
                    } catch (Exception again) {
                        Thread.sleep(100);
                    }
                    Thread.sleep(20);
                }
            }),
            loop(() -> {
                JetStreamSubscription reader = null;
                while (reader == null) {
                    try {
                        reader = js.subscribe("moves.js.java", PullSubscribeOptions.builder().durable("java").build());
                    } catch (Exception again) {
                        Thread.sleep(200);
                    }
                }
                while (end.getCount() > 0 || read.size() < published.get()) {
                    List<Message> messages;
                    try {
                        messages = reader.fetch(10, Duration.ofSeconds(1));
                    } catch (Exception again) {
                        Thread.sleep(50);
                        continue;
                    }
                    for (Message message : messages) {
                        read.add(Integer.valueOf(text(message)));
                        try {
                            message.ackSync(Duration.ofSeconds(5));
                        } catch (Exception lost) {
                            // A consumer's leader may be killed between what it stores and what it answers.
                            unconfirmed.incrementAndGet();
                        }
                    }
                }
            }));
        System.out.println("READY");
        end.await();
        // The last jobs are on their way.
        Thread.sleep(1000);
        long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        for (Thread loop : loops) loop.join(Math.max(1, (until - System.nanoTime()) / 1_000_000));
        String version = Nats.CLIENT_VERSION;
        System.out.println("{\"client\": \"jnats " + version + "\", \"disconnects\": " + disconnects + ", \"all\": " + all
            + ", \"jobs\": " + jobs + ", \"asked\": " + asked + ", \"unanswered\": " + unanswered
            + ", \"published\": " + published + ", \"unconfirmed\": " + unconfirmed + ", \"read\": " + read + "}");
        client.close();
        System.exit(0);
    }
}
