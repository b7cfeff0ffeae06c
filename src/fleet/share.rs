//! Divides a whole number among those who want parts of it.

/// Divides `total` by `demands`, max-min fair: whoever wants no more than an equal part has it, and what is left over
/// is divided equally among the others. Nobody has more than it wants. What cannot be divided equally goes, one each,
/// to the first of those who want more.
///
/// The sum of the parts is the lower of `total` and the sum of the demands.
pub fn max_min(total: u32, demands: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|&one| demands[one]);
    let (mut left, mut parts) = (total, vec![0; demands.len()]);
    for (served, &one) in order.iter().enumerate() {
        // Not more than 2^32 members: there is no memory for so many demands.
        let equal = left / (order.len() - served) as u32;
        if demands[one] > equal {
            // All that follow want more than an equal part. The remainder goes to the first by position.
            let mut rest: Vec<usize> = order[served..].to_vec();
            let mut remainder = left % rest.len() as u32;
            rest.sort_unstable();
            for one in rest {
                parts[one] = equal + u32::from(remainder > 0);
                remainder = remainder.saturating_sub(1);
            }
            return parts;
        }
        parts[one] = demands[one];
        left -= demands[one];
    }
    parts
}

/// The equal part of `total` of the member at `position` among `members`: the parts of all are `total`. A weir that
/// counts itself alone has all of it.
pub fn equal(total: u32, members: u32, position: u32) -> u32 {
    let members = members.max(1);
    total / members + u32::from(position < total % members)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_wants_little_has_it_and_the_others_have_equal_parts() {
        assert_eq!(max_min(10, &[1, 20, 20]), [1, 5, 4]);
        assert_eq!(max_min(10, &[20, 20, 2]), [4, 4, 2]);
        assert_eq!(max_min(10, &[3, 3, 3]), [3, 3, 3]);
        assert_eq!(max_min(2, &[9, 9, 9]), [1, 1, 0]);
        assert_eq!(max_min(5, &[]), [] as [u32; 0]);
        assert_eq!([0, 1, 2].map(|position| equal(100, 3, position)), [34, 33, 33]);
        assert_eq!(equal(100, 0, 0), 100);
    }

    proptest! {
        #[test]
        fn parts_are_max_min_fair(total in 0u32..1000, demands in prop::collection::vec(0u32..300, 0..12)) {
            let parts = max_min(total, &demands);
            let wanted: u32 = demands.iter().sum();
            prop_assert_eq!(parts.iter().sum::<u32>(), total.min(wanted));
            for (one, &part) in parts.iter().enumerate() {
                prop_assert!(part <= demands[one]);
                // Whoever has less than it wants has as much as anybody, but for one that cannot be divided.
                if part < demands[one] {
                    prop_assert!(parts.iter().all(|&other| other <= part + 1), "{parts:?} of {demands:?}");
                    prop_assert!(parts[..one].iter().zip(&demands).all(|(&p, &d)| p == d || p >= part));
                }
            }
        }

        #[test]
        fn equal_parts_are_all_of_it(total: u32, members in 1u32..200) {
            let parts = (0..members).map(|position| u64::from(equal(total, members, position)));
            prop_assert_eq!(parts.sum::<u64>(), u64::from(total));
        }
    }
}
