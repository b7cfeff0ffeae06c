//! What a WebSocket reads behind the last words of a server.

use super::*;
use crate::relay::{ResumedIn, leafnode::LeafnodeSide, state::tests::Process, waiting::Waiting};

/// What comes out of a stream that comes in two parts, and the code with which a WebSocket ends behind it.
fn passed(mut side: impl Side, (first, second): (&[u8], &[u8])) -> (Vec<u8>, Option<u16>) {
    let (mut waiting, mut bytes) = (Waiting::default(), 0);
    side.capture_errors();
    for part in [first, second] {
        side.pass(part, &mut Outlet::to_hold(&mut waiting, &mut bytes)).unwrap();
    }
    (waiting.to_vec(), side.closing().map(|closing| closing.code))
}

#[test]
fn an_error_is_the_servers_and_no_payload_is_one_however_the_stream_is_cut() {
    let process = Process::new(false);
    let words = "-ERR 'Authorization Violation'\r\n";
    let message = |verb: &str, payload: &str| format!("{verb} {}\r\n{payload}\r\n", payload.len());
    let all = |verb: &str| {
        let payload = message(verb, words.trim_end());
        [
            (payload.clone(), None),
            (message(verb, &format!("x\r\n{words}PING")), None),
            (message(verb, &format!("\n{}", words.trim_end())), None),
            (format!("{words}{payload}"), Some(1008)),
            (format!("{payload}-ERR 'Maximum Payload Violation'\r\n"), Some(1009)),
            ("-ERR 'Permissions Violation for Publish to \"a\"'\r\nPING\r\n".to_owned(), None),
        ]
    };
    for (stream, code) in all("MSG a 1") {
        for cut in 0..=stream.len() {
            let cut = stream.as_bytes().split_at(cut);
            let side = process.server_side(false, InfoPolicy::Rewrite);
            assert_eq!(passed(side, cut), (stream.clone().into_bytes(), code), "{cut:?}");
        }
    }
    for (stream, code) in all("LMSG a") {
        for cut in 0..=stream.len() {
            let cut = stream.as_bytes().split_at(cut);
            let ResumedIn { listener_info, client_ip, server, .. } = process.resumed_in();
            let side = LeafnodeSide::from_hub(listener_info, client_ip, server);
            assert_eq!(passed(side, cut), (stream.clone().into_bytes(), code), "{cut:?}");
        }
    }
}
