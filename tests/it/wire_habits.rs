//! Wire habits of clients that no official test suite has: short scripts of what such a client writes and when. Each
//! script is run twice, straight at a nats-server and through weir. A subscriber that is connected straight to the
//! server says what was delivered, and the client's own transcript says what it heard: both must be the same.

use std::{fmt::Write as _, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use weir_testkit::*;

/// One thing that a client does.
enum Step {
    /// Writes this, in one write.
    Write(Vec<u8>),
    /// Writes this one byte at a time, as a client does that prints into an unbuffered socket.
    Trickle(&'static str),
    /// Reads until this has come, after whatever it heard before.
    Hear(&'static str),
    /// Writes this once for each INFO that has come so far and was not answered yet.
    AnswerInfos(&'static str),
    /// Does nothing for a while: the next step shall arrive in another segment, as a second flush or key press does.
    Idle(Duration),
    /// Shuts down its writing half and still reads.
    ShutWriting,
    /// Closes.
    Close,
}

use Step::{AnswerInfos, Close, Hear, Idle, ShutWriting, Trickle, Write};

/// The habit of one client.
struct Habit {
    /// Who does it, and where that can be read.
    client: &'static str,
    steps: Vec<Step>,
    /// The messages that the subscriber must get: subject and size.
    delivered: Vec<(&'static str, usize)>,
    /// The operations that the client must have heard by then, without INFO and without the server's PING.
    heard: &'static str,
}

fn write(text: impl AsRef<[u8]>) -> Step {
    Write(text.as_ref().to_vec())
}

const FLUENT_BIT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"ssl_required\":false,\"name\":\"fluent-bit\",\
                          \"lang\":\"c\",\"version\":\"3.1.0\"}\r\n";
const ARDUINO: &str = "CONNECT {\"verbose\": false,\"pedantic\": false,\"lang\": \"arduino\",\"version\": \"1.0.0\",\
                       \"user\":\"null\",\"pass\":\"null\"}\r\n";
const DART: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"dart\",\"version\":\"0.6.5\",\
                    \"protocol\":1,\"headers\":true}\r\n";
const DOTNET: &str = "CONNECT {\"echo\":true,\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\
                      \"name\":\"NATS .NET Client\",\"lang\":\".NET\",\"version\":\"2.5.0\",\"protocol\":1,\
                      \"headers\":true,\"no_responders\":true}\r\n";

fn habits() -> Vec<Habit> {
    let second = || Idle(Duration::from_secs(1));
    vec![
        Habit {
            // plugins/out_nats/nats.c, `cb_nats_flush` and `NATS_CONNECT` (nats.h); fluent/fluent-bit#12159.
            client: "Fluent Bit on a connection that it keeps: CONNECT before every PUB, no PING, never a read",
            steps: vec![
                write(FLUENT_BIT),
                write("PUB app.log 5\r\nfirst\r\n"),
                second(),
                write(FLUENT_BIT),
                write("PUB app.log 6\r\nsecond\r\n"),
                second(),
                write(FLUENT_BIT),
                write("PUB app.log 5\r\nthird\r\n"),
            ],
            delivered: vec![("app.log", 5), ("app.log", 6), ("app.log", 5)],
            heard: "",
        },
        Habit {
            // The same, with `net.keepalive off`: a connection for each flush.
            client: "Fluent Bit without keepalive: CONNECT, PUB, close",
            steps: vec![write(format!("{FLUENT_BIT}PUB app.log 5\r\nhello\r\n")), Close],
            delivered: vec![("app.log", 5)],
            heard: "",
        },
        Habit {
            // The same; a chunk is up to about 1 MB (fluent/fluent-bit#935).
            client: "Fluent Bit with a chunk of 900 kB right behind CONNECT",
            steps: vec![write(FLUENT_BIT), write([b"PUB app.log 900000\r\n", &[b'x'; 900_000][..], b"\r\n"].concat())],
            delivered: vec![("app.log", 900_000)],
            heard: "",
        },
        Habit {
            // NATS.Net, src/NATS.Client.Core/NatsConnection.cs: on reconnect all SUBs go out behind CONNECT and PING.
            client: "NATS.Net on reconnect: CONNECT, PING and 3,000 SUBs in one burst",
            steps: {
                let mut burst = format!("{DOTNET}PING\r\n");
                for n in 1..=3000 {
                    write!(burst, "SUB app.tenant.0001.device.{n:05}.events {n}\r\n").unwrap();
                }
                vec![
                    write(burst),
                    Hear("PONG\r\n"),
                    write("PUB app.tenant.0001.device.03000.events 2\r\nhi\r\nPING\r\n"),
                    Hear("PONG\r\n"),
                ]
            },
            delivered: vec![("app.tenant.0001.device.03000.events", 2)],
            heard: "PONG\r\nMSG app.tenant.0001.device.03000.events 3000 2\r\nhi\r\nPONG\r\n",
        },
        Habit {
            // ArduinoNATS.h, `recv`: CONNECT and the subscriptions again for each INFO; blanks where an argument is
            // missing; the user and the password are the word null.
            client: "isobit/arduino-nats: CONNECT for each INFO, two blanks for an empty argument, PING only later",
            steps: vec![
                AnswerInfos(ARDUINO),
                write("SUB room.light  0\r\n"),
                write("PUB room.temp  4\r\n21.5\r\n"),
                write("PING\r\n"),
                Hear("PONG\r\n"),
                AnswerInfos(ARDUINO),
                write("PUB room.light  2\r\non\r\n"),
                Hear("on\r\n"),
            ],
            delivered: vec![("room.temp", 4), ("room.light", 2)],
            heard: "PONG\r\nMSG room.light 0 2\r\non\r\n",
        },
        Habit {
            // dart-nats, lib/src/client.dart: `_processOp` of INFO sends CONNECT, whichever INFO it is. Protocol 1, so
            // servers since 2.12 and weir send INFO behind the first PONG.
            client: "dart-nats: CONNECT for each INFO, with protocol 1",
            steps: vec![
                AnswerInfos(DART),
                write("PING\r\n"),
                Hear("PONG\r\n"),
                second(),
                AnswerInfos(DART),
                write("SUB greet.* 1\r\nPUB greet.joe 5\r\nhello\r\nPING\r\n"),
                Hear("PONG\r\n"),
            ],
            delivered: vec![("greet.joe", 5)],
            heard: "PONG\r\nMSG greet.joe 1 5\r\nhello\r\nPONG\r\n",
        },
        Habit {
            // nats-io/nats.deno#73, nats-io/nats.ws#49: CONNECT twice when a second INFO comes early.
            client: "nats.deno: the same CONNECT twice before PING",
            steps: vec![
                write("CONNECT {\"lang\":\"nats.deno\",\"verbose\":false,\"protocol\":1}\r\n"),
                write("CONNECT {\"lang\":\"nats.deno\",\"verbose\":false,\"protocol\":1}\r\nPING\r\n"),
                Hear("PONG\r\n"),
                write("PUB deno.up 1\r\n1\r\n"),
            ],
            delivered: vec![("deno.up", 1)],
            heard: "PONG\r\n",
        },
        Habit {
            // A verbose client gets one +OK for each CONNECT.
            client: "a verbose client that repeats CONNECT",
            steps: vec![
                write("CONNECT {\"verbose\":true}\r\n"),
                Hear("+OK\r\n"),
                write("CONNECT {\"verbose\":true}\r\n"),
                Hear("+OK\r\n"),
                write("PUB loud 2\r\nhi\r\n"),
                Hear("+OK\r\n"),
            ],
            delivered: vec![("loud", 2)],
            heard: "+OK\r\n+OK\r\n+OK\r\n",
        },
        Habit {
            // docs.nats.io, "Protocol Demo": telnet, no CONNECT, verbs in small letters.
            client: "a person with telnet who types sub and pub and no CONNECT",
            steps: vec![
                write("sub foo.* 90\r\n"),
                Hear("+OK\r\n"),
                write("pub foo.bar 5\r\n"),
                write("hello\r\n"),
                Hear("hello\r\n"),
            ],
            delivered: vec![("foo.bar", 5)],
            heard: "+OK\r\n+OK\r\nMSG foo.bar 90 5\r\nhello\r\n",
        },
        Habit {
            // The two-line health check of HAProxy (tcp-check expect, send, expect) and of many scripts.
            client: "a health check: expect INFO, send PING, expect PONG",
            steps: vec![Hear("INFO "), write("PING\r\n"), Hear("PONG\r\n")],
            delivered: vec![],
            heard: "PONG\r\n",
        },
        Habit {
            client: "printf 'CONNECT {\"verbose\":false}\\r\\nPING\\r\\n' | nc -N host 4222",
            steps: vec![write("CONNECT {\"verbose\":false}\r\nPING\r\n"), ShutWriting, Hear("PONG\r\n")],
            delivered: vec![],
            heard: "PONG\r\n",
        },
        Habit {
            client: "printf 'CONNECT {}\\r\\nPUB last 5\\r\\nhello\\r\\n' > /dev/tcp/host/4222",
            steps: vec![write("CONNECT {\"verbose\":false}\r\nPUB last 5\r\nhello\r\n"), Close],
            delivered: vec![("last", 5)],
            heard: "",
        },
        Habit {
            client: "echo with bare line feeds into nc",
            steps: vec![write("CONNECT {\"verbose\":false}\nPUB lf 2\nhi\r\nPING\n"), Hear("PONG\r\n")],
            delivered: vec![("lf", 2)],
            heard: "PONG\r\n",
        },
        Habit {
            // Arduino's `Print` writes characters one by one when the client library has no buffer.
            client: "a device that writes one byte at a time",
            steps: vec![
                Trickle("CONNECT {\"verbose\":false,\"lang\":\"photon-cpp\"}\r\n"),
                Trickle("PUB slow.device 3\r\nabc\r\nPING\r\n"),
                Hear("PONG\r\n"),
            ],
            delivered: vec![("slow.device", 3)],
            heard: "PONG\r\n",
        },
        Habit {
            // An operation of servers; nats-server answers and closes (client.go, `processErr` by parser.go).
            client: "a client that sends HMSG, which only servers send",
            steps: vec![
                write("CONNECT {\"verbose\":false}\r\nPING\r\n"),
                Hear("PONG\r\n"),
                write("HMSG foo 1 12 12\r\nNATS/1.0\r\n\r\n\r\n"),
                Hear("-ERR 'Unknown Protocol Operation'\r\n"),
            ],
            delivered: vec![],
            heard: "PONG\r\n-ERR 'Unknown Protocol Operation'\r\n",
        },
    ]
}

/// A client that runs a script.
struct Client {
    writer: OwnedWriteHalf,
    heard: watch::Receiver<Vec<u8>>,
    reading: JoinHandle<()>,
    /// How much of what it heard earlier steps have asked for.
    seen: usize,
    infos_answered: usize,
}

impl Client {
    async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        let (hears, heard) = watch::channel(Vec::new());
        let mut client = Self { writer, heard, reading: tokio::spawn(read(reader, hears)), seen: 0, infos_answered: 0 };
        // Every client here waits for the first INFO, those too that do not look at it.
        client.hear("INFO ").await.unwrap();
        client.seen = 0;
        client
    }

    async fn hear(&mut self, text: &str) -> Result<(), String> {
        let from = self.seen;
        let find = |heard: &[u8]| {
            let part = &heard[from..];
            part.windows(text.len()).position(|window| window == text.as_bytes()).map(|at| from + at + text.len())
        };
        let mut found = None;
        let waited = timeout(
            PATIENCE,
            self.heard.wait_for(|heard| {
                found = find(heard);
                found.is_some()
            }),
        )
        .await
        .map(|ended| ended.is_ok());
        match (found, waited) {
            (Some(end), _) => self.seen = end,
            (None, Ok(_)) => return Err(format!("the connection ended before {text:?}, heard: {}", self.transcript())),
            (None, Err(_)) => return Err(format!("{text:?} did not come, heard: {}", self.transcript())),
        }
        Ok(())
    }

    fn lines(&self, is: impl Fn(&str) -> bool) -> String {
        let heard = self.heard.borrow();
        String::from_utf8_lossy(&heard).split_inclusive('\n').filter(|line| is(line)).collect()
    }

    /// What it has heard, without INFO and the server's PING, which come when the server likes.
    fn transcript(&self) -> String {
        self.lines(|line| !line.starts_with("INFO ") && line != "PING\r\n")
    }

    async fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            let written = match step {
                Write(bytes) => self.writer.write_all(bytes).await,
                Trickle(text) => {
                    for byte in text.as_bytes() {
                        self.writer.write_all(&[*byte]).await.map_err(|err| err.to_string())?;
                        tokio::task::yield_now().await;
                    }
                    Ok(())
                }
                Hear(text) => {
                    self.hear(text).await?;
                    Ok(())
                }
                AnswerInfos(text) => {
                    let infos = self.lines(|line| line.starts_with("INFO ") && line.ends_with('\n')).lines().count();
                    let answers = text.repeat(infos - self.infos_answered);
                    self.infos_answered = infos;
                    self.writer.write_all(answers.as_bytes()).await
                }
                Idle(pause) => {
                    tokio::time::sleep(*pause).await;
                    Ok(())
                }
                ShutWriting => self.writer.shutdown().await,
                Close => {
                    self.reading.abort();
                    self.writer.shutdown().await
                }
            };
            written.map_err(|err| format!("write: {err}"))?;
        }
        Ok(())
    }
}

async fn read(mut reader: OwnedReadHalf, hears: watch::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        hears.send_modify(|heard| heard.extend_from_slice(&buffer[..n]));
    }
}

/// Runs a habit at `address`, which leads to `server`. Returns what went wrong.
async fn try_habit(habit: &Habit, address: &str, server: &NatsServer) -> Result<(), String> {
    let mut subscriber = RawClient::connect(&server.address, &Login::nobody()).await;
    subscriber.subscribe(">", 1).await.unwrap();
    subscriber.round_trip().await.unwrap();
    let mut client = Client::connect(address).await;
    let ran = client.run(&habit.steps).await;
    for (n, &(subject, size)) in habit.delivered.iter().enumerate() {
        let got = timeout(PATIENCE, subscriber.next_msg()).await;
        match got {
            Ok((got, payload)) if got == subject && payload.len() == size => {}
            Ok((got, payload)) => return Err(format!("message {n} is {got} of {} bytes", payload.len())),
            Err(_) => return Err(format!("message {n} of {} was not delivered; {ran:?}", habit.delivered.len())),
        }
    }
    ran?;
    match client.transcript() {
        heard if heard == habit.heard => Ok(()),
        heard => Err(format!("it heard {heard:?} and not {:?}", habit.heard)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_habit_works_as_it_does_straight_at_the_server() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts()).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    let mut failed = String::new();
    for habit in habits() {
        if let Err(why) = try_habit(&habit, &server.address, &server).await {
            panic!("straight at the server, so the script is wrong: {}: {why}", habit.client);
        }
        if let Err(why) = try_habit(&habit, &weir.address, &server).await {
            writeln!(failed, "\n{}:\n    {why}", habit.client).unwrap();
        }
    }
    assert!(failed.is_empty(), "through weir:{failed}");
    weir.assert_nothing_leaked().await;
}
