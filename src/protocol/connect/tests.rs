//! CONNECT as nats-server reads it, and what weir writes of it.

use proptest::prelude::*;

use super::*;

fn parse(json: &str) -> Connect {
    Connect::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn written(connect: &Connect) -> String {
    let mut out = Vec::new();
    connect.write(&mut out);
    String::from_utf8(out).unwrap()
}

/// JSON texts, and the `user` that Go 1.26's `json.Unmarshal` into nats-server's `ClientOpts` finds in each.
#[test]
fn users_as_go_reads_them() {
    for (json, user) in [
        (&br#"{"user":"a"}"#[..], "a"),
        (br#"{"USER":"a"}"#, "a"),
        (br#"{"uSeR":"a","user":"b"}"#, "b"),
        (br#"{"user":"a","USER":"b"}"#, "b"),
        ("{\"user\":\"a\",\"u\u{17f}er\":\"b\"}".as_bytes(), "b"),
        (br#"{"user":"a","u\u017fer":"b"}"#, "b"),
        (br#"{"user":"a","\u0075ser":"b"}"#, "b"),
        (br#"{"user":"a","us\u00e9r":"b","users":"c","use":"d"}"#, "a"),
        (br#"{"user":"a","user":null}"#, "a"),
        (br#"{"user":"a","user":""}"#, ""),
        (br#"{"x":{"user":"b"},"user":"a"}"#, "a"),
        (br#"{"user":"\u0041\n\/\\\""}"#, "A\n/\\\""),
        (br#"{"user":"\ud83d\ude00"}"#, "\u{1f600}"),
        (br#"{"user":"\ud800"}"#, "\u{fffd}"),
        (br#"{"user":"\udc00\ud800"}"#, "\u{fffd}\u{fffd}"),
        (br#"{"user":"\ud800\u0041"}"#, "\u{fffd}A"),
        (br#"{"user":"\ud800\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
        (br#"{"user":"\u0000"}"#, "\0"),
        (b"{\"user\":\"a\xffb\"}", "a\u{fffd}b"),
        (b"{\"user\":\"\xe2\x82\"}", "\u{fffd}\u{fffd}"),
        (b"{\"user\":\"\xed\xa0\x80\"}", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"{\"user\":\"\xf0\x9f\x98\"}", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"{\"user\":\"\xc0\xaf\"}", "\u{fffd}\u{fffd}"),
        (b"{\"user\":\"\x7f\"}", "\x7f"),
        (b" \t\r\n{ \"user\"\t:\r\n\"a\" , \"x\" : [ ] } \r\n", "a"),
        (b"{\"\xff\":1,\"\":2,\"user\":\"a\"}", "a"),
        (b"null", ""),
        (b"{}", ""),
    ] {
        let text = String::from_utf8_lossy(json).into_owned();
        let connect = Connect::parse(json).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(connect.user().unwrap_or_default(), user, "{text}");
    }
}

/// The same for `protocol`, which must be a 64-bit integer.
#[test]
fn protocols_as_go_reads_them() {
    for (number, protocol) in [
        ("0", Some(0)),
        ("1", Some(1)),
        ("-1", Some(-1)),
        ("-0", Some(0)),
        ("null", Some(0)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("1.0", None),
        ("1e0", None),
        ("\"1\"", None),
        ("true", None),
        ("01", None),
        ("+1", None),
        ("-", None),
    ] {
        let json = format!("{{\"protocol\":{number}}}");
        let parsed = Connect::parse(json.as_bytes()).ok().map(|connect| connect.protocol());
        assert_eq!(parsed, protocol, "{json}");
    }
}

#[test]
fn refused_as_go_refuses() {
    for json in [
        "",
        " ",
        "{",
        "{}{}",
        "{} x",
        "{,}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":[1,]}",
        "{\"a\":tru}",
        "{\"a\":True}",
        "{\"a\":.5}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u00g0\"}",
        "{\"a\":\"\n\"}",
        "\u{feff}{}",
        "{}\0",
        "[]",
        "\"a\"",
        "1",
        "true",
        "{\"user\":1}",
        "{\"user\":1,\"user\":\"a\"}",
        "{\"user\":{}}",
        "{\"verbose\":\"true\"}",
        "{\"verbose\":0}",
        "{\"new_account\":1}",
        "{\"remote_account\":1}",
        "{\"Proxy_Sig\":[]}",
        "{\"import\":1}",
        "{\"Export\":{\"allow\":\"x\"}}",
        "{\"export\":{\"DENY\":[1]}}",
    ] {
        assert!(Connect::parse(json.as_bytes()).is_err(), "{json}");
    }
    let fine = r#"{"import":{"allow":["a",null],"deny":null,"x":5},"export":null}"#;
    assert!(Connect::parse(fine.as_bytes()).is_ok());
}

#[test]
fn nesting_is_bounded_as_in_go() {
    let nested = |depth| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(Connect::parse(nested(9_999).as_bytes()).is_ok());
    assert_eq!(Connect::parse(nested(10_000).as_bytes()), Err(ConnectError::Syntax));
    assert_eq!(Connect::parse("[".repeat(1 << 20).as_bytes()), Err(ConnectError::Syntax));
}

#[test]
fn absent_is_the_servers_default() {
    let connect = parse("{}");
    assert!(connect.verbose() && connect.pedantic() && connect.echo());
    assert!(!connect.headers() && !connect.no_responders() && !connect.tls_required() && !connect.new_account());
    assert_eq!(connect.protocol(), 0);
    assert_eq!(written(&connect), "CONNECT {}\r\n");
}

#[test]
fn what_clients_send() {
    let cases = [
        (
            r#"{"echo": true, "headers": true, "lang": "python3", "no_responders": true, "pedantic": false, "protocol": 1, "verbose": false, "version": "2.16.0"}"#,
            "python3",
        ),
        (
            r#"{"no_responders":true,"protocol":1,"verbose":false,"pedantic":false,"lang":"nats.js","version":"3.4.0","headers":true}"#,
            "nats.js",
        ),
        (
            r#"{"verbose":false,"pedantic":false,"jwt":null,"nkey":null,"sig":null,"name":null,"echo":true,"lang":"rust","version":"0.51.0","protocol":1,"tls_required":false,"user":null,"pass":null,"auth_token":null,"headers":true,"no_responders":true}"#,
            "rust",
        ),
        (
            r#"{"verbose":false,"pedantic":false,"tls_required":false,"name":"","lang":"go","version":"1.22.1","protocol":1,"echo":true,"headers":true,"no_responders":true}"#,
            "go",
        ),
    ];
    for (json, lang) in cases {
        let connect = parse(json);
        assert_eq!(connect.lang(), Some(lang));
        assert!(connect.headers() && connect.no_responders() && connect.echo() && !connect.verbose());
        assert_eq!((connect.protocol(), connect.user(), connect.jwt(), connect.name()), (1, None, None, None));
        let version = connect.version().unwrap();
        let expected = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"protocol\":1,\"lang\":\"{lang}\",\"version\":\"{version}\"}}\r\n"
        );
        assert_eq!(written(&connect), expected);
    }
}

#[test]
fn canonical_has_one_of_each_and_keeps_the_unknown() {
    let mut connect = parse(
        r#"{"z": {"user" : "x", "l": [1, 2.50]}, "User":"a","USER":"b","account":"A","New_Account":true,"z":null,"pa\u017fs":"q\"\\","é":1e5}"#,
    );
    connect.set_protocol(1);
    connect.set_proxy_sig("sig");
    assert_eq!(
        written(&connect),
        "CONNECT {\"new_account\":true,\"protocol\":1,\"user\":\"b\",\
         \"pass\":\"q\\\"\\\\\",\"account\":\"A\",\"proxy_sig\":\"sig\",\"z\":{\"user\":\"x\",\"l\":[1,2.50]},\"z\":null,\"é\":1e5}\r\n"
    );
}

#[test]
fn debug_shows_no_secret() {
    let connect = parse(
        r#"{"user":"alice","pass":"S3CRET1","auth_token":"S3CRET2","nkey":"S3CRET3","jwt":"S3CRET4","sig":"S3CRET5","proxy_sig":"S3CRET6","other":"S3CRET7"}"#,
    );
    let shown = format!("{connect:?}");
    assert!(shown.contains("alice") && shown.contains("other"), "{shown}");
    assert!(!shown.contains("S3CRET"), "{shown}");
}

proptest! {
    #[test]
    fn canonical_says_the_same(members in prop::collection::vec((key(), value()), 0..8)) {
        let members: Vec<String> = members.into_iter().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
        let json = format!("{{{}}}", members.join(" ,\t"));
        if let Ok(connect) = Connect::parse(json.as_bytes()) {
            let sent = json;
            let line = written(&connect);
            prop_assert_eq!(line.matches(['\r', '\n']).count(), 2);
            let json = line.strip_prefix("CONNECT ").unwrap();
            prop_assert_eq!(Connect::parse(json.as_bytes()).unwrap(), connect);
            // What fits into `max_control_line` as the client wrote it fits as weir writes it.
            prop_assert!(line.len() <= "CONNECT \r\n".len() + sent.len() + 3 * sent.matches("\\ud800").count());
        }
    }

    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Connect::parse(&bytes);
    }
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(
            &[
                "user",
                "USER",
                "u\u{17f}er",
                "\\u0075ser",
                "pass",
                "verbose",
                "echo",
                "protocol",
                "nkey",
                "N\u{212a}EY",
                "x",
                "",
                "import"
            ][..]
        )
        .prop_map(str::to_owned),
        "[a-zA-Z_é]{0,6}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(
            &[
                "null",
                "true",
                "false",
                "1",
                "-1",
                "1.0",
                "{ \"a\" : [ ] }",
                "[ 1 , \"] \\\" \" ]",
                "\"\\ud800\"",
                "\"\\n\\u0000\""
            ][..]
        )
        .prop_map(str::to_owned),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap_or_default()),
    ]
}

#[test]
fn the_quick_way_to_a_key_is_the_tables_way() {
    for name in TEXTS.into_iter().chain(FLAGS).chain(["protocol", "nonsense"]) {
        let exact = Key::exact(name.as_bytes());
        assert!(exact.is_none() || exact == Key::folded(name), "{name}");
    }
    assert_eq!(Key::exact(b"user"), Some(Key::Text(3)));
}
