//! INFO of real servers: read, rewritten, and recognised when it comes again.

use super::*;

const SERVER: &str = r#"{"server_id":"NDIJ","server_name":"n1","version":"2.15.1","proto":1,"git_commit":"abc","go":"go1.26.8","host":"0.0.0.0","port":4222,"headers":true,"auth_required":true,"tls_verify":true,"max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1","nonce":"pq\u00e9","cluster":"c","connect_urls":["10.0.0.1:4222"],"ws_connect_urls":["10.0.0.1:80"],"ldm":true,"api_lvl":3,"xkey":"X"}"#;

fn parse(json: &str) -> Info {
    Info::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn rewritten(info: &Info, rewrite: &Rewrite<'_>) -> String {
    let mut out = Vec::new();
    info.rewrite(rewrite, &mut out);
    String::from_utf8(out).unwrap()
}

const PLAIN: Rewrite<'static> = Rewrite {
    advertise: &[],
    urls: Urls::Clients,
    host: "weir",
    port: 4222,
    version: "2.9.10",
    client_ip: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))),
    tls_required: false,
    tls_available: false,
    tls_verify: false,
    keep_nonce: false,
    compression: None,
};

#[test]
fn accessors() {
    let info = parse(SERVER);
    assert_eq!((info.server_id(), info.server_name(), info.version()), ("NDIJ", "n1", "2.15.1"));
    assert_eq!((info.max_payload(), info.client_id(), info.api_lvl()), (Some(1_048_576), Some(5), Some(3)));
    assert_eq!((info.nonce(), info.remote_account()), (Some("pqé"), None));
    assert!(info.auth_required() && info.headers() && info.jetstream() && info.ldm());
    assert!(!info.tls_required() && !info.tls_available() && !info.connect_info());
    let info = parse(
        r#"{"remote_account":"A","connect_info":true,"nonce":"","max_payload":-1,"client_id":18446744073709551615}"#,
    );
    assert_eq!(
        (info.remote_account(), info.nonce(), info.max_payload(), info.client_id()),
        (Some("A"), None, None, Some(u64::MAX))
    );
    assert!(info.connect_info() && !info.headers());
    assert_eq!(info.server_id(), "");
}

#[test]
fn rewriting_puts_weir_in_the_servers_place() {
    let info = parse(SERVER);
    assert_eq!(
        rewritten(&info, &PLAIN),
        "INFO {\"server_id\":\"NDIJ\",\"server_name\":\"n1\",\"proto\":1,\"git_commit\":\"abc\",\"go\":\"go1.26.8\",\"headers\":true,\
         \"auth_required\":true,\"max_payload\":1048576,\"jetstream\":true,\"client_id\":5,\"cluster\":\"c\",\"ldm\":true,\
         \"api_lvl\":3,\"xkey\":\"X\",\"version\":\"2.9.10\",\"host\":\"weir\",\"port\":4222,\"client_ip\":\"192.0.2.1\"}\r\n"
    );
    let advertise = ["nats.example.com:4222".to_owned(), "b:1".to_owned()];
    let full = Rewrite {
        advertise: &advertise,
        urls: Urls::Clients,
        tls_required: true,
        tls_available: true,
        tls_verify: false,
        keep_nonce: true,
        client_ip: None,
        ..PLAIN
    };
    let line = rewritten(&info, &full);
    for part in [
        r#""nonce":"pqé""#,
        r#""connect_urls":["nats.example.com:4222","b:1"]"#,
        r#""tls_required":true,"tls_available":true"#,
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains("10.0.0.1") && !line.contains("client_ip"));
}

#[test]
fn a_rewritten_info_has_no_duplicates_nulls_or_line_breaks() {
    let info = parse(
        "{\"a\":1,\n\"server_id\":\"x\",\"a\" : [ 2,\r\n3 ],\"b\":null,\"server_id\":\"y\",\"max_payload\":null,\"n\":1e3}",
    );
    assert_eq!((info.server_id(), info.max_payload()), ("y", None));
    let line = rewritten(&info, &PLAIN);
    assert!(line.starts_with("INFO {\"a\":[2,3],\"server_id\":\"y\",\"n\":1e3,\"version\""), "{line}");
    assert_eq!(line.matches(['\r', '\n']).count(), 2);
    let again = parse(line.strip_prefix("INFO ").unwrap());
    assert_eq!(rewritten(&again, &PLAIN), line);
}

#[test]
fn not_an_info() {
    for json in [&b""[..], b"null", b"[]", b"{", b"{}x", b"{\"a\":\"\xff\"}"] {
        assert_eq!(Info::parse(json), Err(InfoError), "{:?}", json.escape_ascii().to_string());
    }
}

/// A type that changes in a later nats-server costs nobody the INFO.
#[test]
fn a_value_of_another_type_is_passed_on_and_named() {
    for (json, key) in [
        (r#"{"server_id":5}"#, "server_id"),
        (r#"{"headers":"true"}"#, "headers"),
        (r#"{"max_payload":1.5}"#, "max_payload"),
        (r#"{"client_id":"1"}"#, "client_id"),
    ] {
        let info = Info::parse(json.as_bytes()).unwrap();
        assert_eq!(info.misfit(), Some(key));
        let again = Info::reparse(json.as_bytes(), Some(&info)).unwrap();
        assert_eq!((again.misfit(), again.shares_template_with(&info)), (Some(key), true));
        let line = rewritten(&info, &PLAIN);
        assert!(line.starts_with(&format!("INFO {},", json.trim_end_matches('}'))), "{line}");
    }
    assert_eq!(Info::parse(br#"{"server_id":"a","max_payload":-1,"future":[1]}"#).unwrap().misfit(), None);
    let odd = Info::parse(br#"{"tls_required":"yes","auth_required":1,"ldm":"true","nonce":5}"#).unwrap();
    assert_eq!((odd.tls_required(), odd.auth_required(), odd.ldm(), odd.nonce()), (true, true, false, None));
}

fn written(own_info: &OwnInfo) -> Info {
    let mut out = Vec::new();
    own_info.write("2001:db8::1".parse().unwrap(), &mut out);
    let line = String::from_utf8(out).unwrap();
    assert!(
        line.contains(",\"client_ip\":\"2001:db8::1\"") && !line.contains("client_id") && line.contains("\"proto\":1"),
        "{line}"
    );
    // async-nats needs one line, no duplicate keys and no null.
    assert!(line.ends_with("}\r\n") && line.matches(['\r', '\n']).count() == 2 && !line.contains("null"));
    let json = line.strip_prefix("INFO ").unwrap();
    let info = parse(json);
    assert_eq!(
        info.template.fields.len(),
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json).unwrap().len()
    );
    info
}

#[test]
fn own_info_names_the_cluster_where_all_servers_agree() {
    let named = |names: &[&str]| {
        let infos: Vec<Info> = names.iter().map(|names| parse(&format!("{{\"version\":\"2.15.1\"{names}}}"))).collect();
        let own_info = OwnInfo::new("W", "w", &infos.iter().collect::<Vec<_>>(), "h", 1, (Urls::Clients, &[]));
        written(&own_info).cluster_and_domain().map(|name| name.map(str::to_owned))
    };
    let (one, other) = (r#","cluster":"c","domain":"d""#, r#","cluster":"c","domain":"e""#);
    assert_eq!(named(&[one, one]), [Some("\"c\"".to_owned()), Some("\"d\"".to_owned())]);
    assert_eq!(named(&[one, other]), [Some("\"c\"".to_owned()), None]);
    assert_eq!((named(&[one, ""]), named(&["", one]), named(&[])), ([None, None], [None, None], [None, None]));
}

#[test]
fn own_info_promises_what_all_servers_can_keep() {
    let a = parse(r#"{"version":"2.15.1","max_payload":1048576,"headers":true,"jetstream":true,"api_lvl":3}"#);
    let b = parse(
        r#"{"version":"2.9.10","max_payload":65536,"headers":true,"auth_required":true,"nonce":"x","ldm":true,"connect_urls":["b"]}"#,
    );
    let c = parse(r#"{"version":"2.10.0-RC.1","max_payload":-1,"headers":true,"api_lvl":1,"cluster":"c"}"#);
    let own_info = OwnInfo::new("W", "weir", &[&a, &b, &c], "h", 1, (Urls::Clients, &["x:1".to_owned()]));
    assert_eq!(own_info.version(), "2.9.10");
    let info = written(&own_info);
    assert_eq!((info.server_id(), info.server_name(), info.version()), ("W", "weir", "2.9.10"));
    assert_eq!((info.max_payload(), info.api_lvl(), info.nonce()), (Some(65_536), None, None));
    assert!(
        info.headers()
            && info.auth_required()
            && info.jetstream()
            && !info.ldm()
            && info.template.raw("cluster").is_none()
    );
    assert_eq!(info.template.raw("connect_urls").unwrap(), "[\"x:1\"]");

    let info = written(&OwnInfo::new("W", "weir", &[&a, &c], "h", 1, (Urls::Clients, &[])));
    assert_eq!((info.version(), info.api_lvl()), ("2.10.0-RC.1", Some(1)));
    assert!(!info.auth_required() && info.template.raw("connect_urls").is_none() && !info.tls_required());

    let old = parse(r#"{"version":"dev","max_payload":0}"#);
    let info = written(&OwnInfo::new("W", "weir", &[&a, &old], "h", 1, (Urls::Clients, &[])));
    assert_eq!((info.version(), info.max_payload(), info.headers()), ("2.15.1", Some(1_048_576), false));
}

/// Leafnodes take the level of their hub from the first INFO alone.
#[test]
fn own_info_for_leafnodes_has_the_lowest_level_of_the_hubs() {
    let of = |protos: &[&str], urls| {
        let infos: Vec<Info> =
            protos.iter().map(|proto| parse(&format!("{{\"version\":\"2.15.1\"{proto}}}"))).collect();
        let (infos, mut out) = (infos.iter().collect::<Vec<_>>(), Vec::new());
        OwnInfo::new("W", "w", &infos, "h", 1, (urls, &[])).write("192.0.2.1".parse().unwrap(), &mut out);
        Info::parse(out.strip_prefix(b"INFO ").unwrap()).unwrap().proto()
    };
    let (new, old) = (",\"proto\":3", ",\"proto\":2");
    for urls in [Urls::Leafnodes, Urls::LeafnodesOverWebSocket] {
        assert_eq!((of(&[new, new], urls), of(&[new, old], urls)), (Some(3), Some(2)));
        assert_eq!((of(&[new, ""], urls), of(&[], urls)), (Some(1), Some(1)));
    }
    assert_eq!(of(&[new, new], Urls::Clients), Some(1));
}

#[test]
fn a_mode_of_compression_is_found_as_go_reads_it() {
    for json in [
        r#"{"compression":"s2_fast"}"#,
        r#"{"Compression":"s2_fast"}"#,
        r#"{"compreſſion":"s2_fast"}"#,
        r#"{"\u0063ompression":1}"#,
        r#"{"compression":"s2_fast","compression":null}"#,
        r#"{"COMPRESSION":"off","compression":""}"#,
    ] {
        assert!(Info::may_set_compression(json.as_bytes()), "{json}");
    }
    for json in [r#"{"compression":""}"#, r#"{"compression":null,"a":{"compression":"s2"}}"#, "{}", "", "[]"] {
        assert!(!Info::may_set_compression(json.as_bytes()), "{json}");
    }
}

#[test]
fn own_info_without_servers_suits_every_client() {
    let info = written(&OwnInfo::new("W", "a\"b", &[], "h", 1, (Urls::Clients, &[])).with_tls(true, true, false));
    assert_eq!((info.version(), info.max_payload(), info.server_name()), ("2.10.0", Some(1 << 20), "a\"b"));
    assert!(info.headers() && info.auth_required() && info.tls_required() && info.tls_available() && !info.jetstream());
}

#[test]
fn own_info_with_a_nonce() {
    let mut out = Vec::new();
    OwnInfo::new("W", "w", &[], "h", 1, (Urls::Clients, &[])).write_with_nonce(
        "192.0.2.1".parse().unwrap(),
        "abc",
        &mut out,
    );
    let info = Info::parse(out.strip_prefix(b"INFO ").unwrap()).unwrap();
    assert_eq!(info.nonce(), Some("abc"));
}

/// Whether [`Info::reparse`] recognises `json` as `known` with other values. In both cases it must yield what parsing
/// yields.
fn is_recognised(known: &str, json: &str) -> bool {
    let known = parse(known);
    let info = Info::reparse(json.as_bytes(), Some(&known)).unwrap_or_else(|error| panic!("{json}: {error}"));
    let parsed = parse(json);
    for keep_nonce in [false, true] {
        let rewrite = Rewrite { keep_nonce, ..PLAIN };
        assert_eq!(rewritten(&info, &rewrite), rewritten(&parsed, &rewrite));
    }
    let own =
        |info: &Info| (info.client_id(), info.nonce().map(str::to_owned), info.remote_account().map(str::to_owned));
    assert_eq!(own(&info), own(&parsed));
    assert_eq!(info.server_name(), parsed.server_name());
    for info in [&info, &parsed] {
        let mut received = Vec::new();
        info.write_received(&mut received);
        assert_eq!(String::from_utf8(received).unwrap(), json);
    }
    Arc::ptr_eq(&info.template, &known.template)
}

#[test]
fn what_a_server_says_again_is_recognised() {
    let line = |id: &str, ip: &str, nonce: &str, account: &str, rest: &str| {
        SERVER
            .replace("\"client_id\":5", &format!("\"client_id\":{id}"))
            .replace("127.0.0.1", ip)
            .replace("pq\\u00e9", nonce)
            .replace("\"X\"", &format!("\"X\",\"remote_account\":\"{account}\"{rest}"))
    };
    let first = line("5", "127.0.0.1", "abc", "A", "");
    assert!(is_recognised(&first, &first));
    assert!(is_recognised(&first, &line("18446744073709551615", "2001:db8::1", "AZaz09-_", "$G", "")));
    assert!(is_recognised(&first, &line("0", "", "", "", "")));
    for other in [
        line("6", "127.0.0.1", "abc", "A", ",\"ldm\":true"),
        line("6", "127.0.0.1", "abc", "A", " "),
        line("-6", "127.0.0.1", "abc", "A", ""),
        line("6", "127.0.0.1", "abc", "a\\\"b", ""),
        line("6", "127.0.0.1", "abc", "\u{e9}", ""),
        line("6", "127.0.0.1", "abc\",\"nonce\":\"d", "A", ""),
        first.replace("n1", "n2"),
    ] {
        assert!(!is_recognised(&first, &other), "{other}");
    }
    // Errors are those of parsing.
    let known = parse(&first);
    for bad in [
        line("06", "", "", "A", ""),
        line("6", "", "a\nb", "A", ""),
        line("6", "", "", "A", "}"),
        line("", "", "", "A", ""),
    ] {
        assert_eq!(Info::reparse(bad.as_bytes(), Some(&known)), Err(InfoError), "{bad}");
    }
    // A value that needs decoding is no placeholder, and is compared with the rest of the line.
    let escaped = line("5", "127.0.0.1", "pq\\u00e9", "A", "");
    assert!(is_recognised(&escaped, &escaped.replace("\"client_id\":5", "\"client_id\":77")));
    assert!(!is_recognised(&escaped, &escaped.replace("pq", "rs")));
    assert!(is_recognised("{}", "{}") && !is_recognised("{}", "{ }"));
}

#[test]
fn versions_of_servers_are_ordered_as_they_were_released() {
    let rising = [
        "2.9.10",
        "2.10.0-alpha",
        "2.10.0-alpha.1",
        "2.10.0-beta.2",
        "2.10.0-beta.11",
        "2.10.0-preview.1",
        "2.10.0",
        "v2.12.0-RC.1",
        "2.12.0+build",
        "2.15.1",
        "10.0.0",
    ];
    for pair in rising.windows(2) {
        assert!(parse_version(pair[0]).unwrap() < parse_version(pair[1]).unwrap(), "{pair:?}");
    }
    assert_eq!(parse_version("2.12.0+one"), parse_version("2.12.0+two"));
    for text in ["", "2", "2.1", "2.1.", "2.1.x", "2.1.1.1", "+2.1.1", "2.+1.1", "main"] {
        assert_eq!(parse_version(text), None, "{text}");
    }
}
