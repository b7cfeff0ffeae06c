//! Masking: a client combines each frame that it sends with four bytes of its choice. Doing so twice gives the frame
//! back.

/// Copies `from`, masked or unmasked, to the front of `to`, which must be at least as long. Then rotates the mask so
/// that its first byte belongs to the next byte of the frame.
#[expect(clippy::indexing_slicing, reason = "callers pass a longer `to`, and a mask has four bytes")]
pub(super) fn copy_masked(mask: &mut [u8; 4], from: &[u8], to: &mut [u8]) {
    let eight = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let to = &mut to[..from.len()];
    let (from_eights, from_rest) = from.as_chunks::<8>();
    let (to_eights, to_rest) = to.as_chunks_mut::<8>();
    for (to, from) in to_eights.iter_mut().zip(from_eights) {
        *to = (u64::from_ne_bytes(*from) ^ eight).to_ne_bytes();
    }
    for (at, (to, from)) in to_rest.iter_mut().zip(from_rest).enumerate() {
        *to = from ^ mask[at % 4];
    }
    mask.rotate_left(from.len() % 4);
}
