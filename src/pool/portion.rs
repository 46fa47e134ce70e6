//! Which part of a target's cap is ours, where several processes share it.
//!
//! Pure. Knows how a number is divided; does not know among whom.

/// One of several parts of a whole, as equal as whole numbers can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    Nothing,
    /// The part of the one at place `rank`, counted from 0, among `of`. Those in front get what is left over.
    Part {
        rank: usize,
        of: usize,
    },
}

/// Whether what is ours may be filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    Free,
    /// There may not be more than there are now.
    Frozen,
}

impl Portion {
    pub const WHOLE: Portion = Portion::Part { rank: 0, of: 1 };

    /// How much of `total` that is. The parts of all ranks make up `total` exactly.
    pub fn of(self, total: usize) -> usize {
        match self {
            Portion::Nothing | Portion::Part { of: 0, .. } => 0,
            Portion::Part { rank, of } => total / of + usize::from(rank < total % of),
        }
    }

    /// A portion that is no larger than either, of any total. (Of two parts neither need be the smaller one of every
    /// total: with 5, place 2 of 3 has 1 and place 0 of 4 has 2; with 9 it is 3 and 3.)
    pub fn or_less(self, other: Portion) -> Portion {
        match (self, other) {
            (Portion::Nothing, _) | (_, Portion::Nothing) => Portion::Nothing,
            (Portion::Part { rank: a, of: n }, Portion::Part { rank: b, of: m }) => Portion::Part {
                rank: a.max(b),
                of: n.max(m),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(rank: usize, of: usize) -> Portion {
        Portion::Part { rank, of }
    }

    #[test]
    fn parts() {
        for (total, of, parts) in [
            (40, 4, vec![10, 10, 10, 10]),
            (40, 3, vec![14, 13, 13]),
            (2, 3, vec![1, 1, 0]),
            (0, 2, vec![0, 0]),
        ] {
            let each = (0..of).map(|rank| part(rank, of).of(total));
            assert_eq!(each.collect::<Vec<_>>(), parts);
        }
        assert_eq!(Portion::WHOLE.of(7), 7);
        assert_eq!(Portion::Nothing.of(7), 0);
    }

    proptest! {
        #[test]
        fn parts_make_up_the_whole(total in 0usize..500, of in 1usize..40) {
            let sum: usize = (0..of).map(|rank| part(rank, of).of(total)).sum();
            prop_assert_eq!(sum, total);
        }

        #[test]
        fn the_lesser_is_never_more(
            total in 0usize..500,
            (a, n) in (1usize..20).prop_flat_map(|n| (0..n, Just(n))),
            (b, m) in (1usize..20).prop_flat_map(|m| (0..m, Just(m))),
        ) {
            let less = part(a, n).or_less(part(b, m)).of(total);
            prop_assert!(less <= part(a, n).of(total) && less <= part(b, m).of(total));
        }
    }
}
