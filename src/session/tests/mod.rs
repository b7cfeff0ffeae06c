//! What a session is beside the others: its size while idle, that it decides as `weir plan` does,
//! and what it takes of the quotas that a fleet shares.

mod enter_shared;
mod plan_agreement;
mod remembered;

use super::*;

/// The size of the future that a function makes.
fn future_size<A, B, C, D, E, F: Future>(_: &impl Fn(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_session_is_small() {
    let size = future_size(&serve);
    assert!(size <= 256, "{size} bytes for every idle session");
}

/// A client that waits for its turn is on the heap, with all that may come: in a storm there are many.
#[test]
fn a_client_on_its_way_is_no_larger_than_a_page() {
    fn size<'a, F: Future>(_: &impl Fn(&'a mut Context, TcpStream, ConnectionPermit) -> F) -> usize {
        size_of::<F>()
    }
    let size = size_of::<Context>() + size(&establish);
    assert!(size <= 4000, "{size} bytes for every client that waits");
}
