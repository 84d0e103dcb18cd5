//! The arithmetic between what the specification says (in v1's terms) and what v2 files take.
//!
//! Pure. The formulas are the ones that all runtimes agreed on; engines compute with them too.

/// `cpu.shares` (2 to 262144, 1024 by default) as `cpu.weight` (1 to 10000, 100 by default): a curve through the
/// three pairs, so that a container without shares weighs as much as any group without a weight.
pub fn cpu_weight(shares: i128) -> u64 {
    let l = (shares.clamp(2, 262_144) as f64).log2();
    // Over a common denominator the exponent is a whole number wherever the power is one; ceil() would turn the
    // least excess above it into a wrong weight.
    10f64.powf((l * l + 125.0 * l - 126.0) / 612.0).ceil() as u64
}

/// blkio weights (10 to 1000) as `io.weight` (1 to 10000).
pub fn io_weight(weight: i128) -> i128 {
    1 + (weight - 10) * 9999 / 990
}

/// A limit on memory and swap together as one on swap.
pub fn swap_beyond_memory(memory: Option<i64>, both: i128) -> String {
    match (memory, both) {
        (_, ..0) => "max".to_string(),
        (Some(memory @ 1..), both) => (both - i128::from(memory)).to_string(),
        (_, both) => both.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shares_have_the_weights_that_engines_expect() {
        let known = [
            (2, 1),
            (512, 59),
            (1024, 100),
            (1025, 101),
            (2048, 174),
            (10_240, 639),
            (262_144, 10_000),
            (1, 1),
            (i128::from(u64::MAX), 10_000),
        ];
        for (shares, weight) in known {
            assert_eq!(cpu_weight(shares), weight, "{shares} shares");
        }
    }

    #[test]
    fn every_share_has_the_least_weight_that_is_not_below_the_curve() {
        let mut last = 1;
        for shares in 2..=262_144_u32 {
            let weight = cpu_weight(shares.into());
            assert!((last..=10_000).contains(&weight), "{shares} shares weigh {weight} after {last}");
            last = weight;
            // As it is published, and backwards: from weights to exponents.
            let l = f64::from(shares).ln() / 2f64.ln();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            let below = (weight as f64 - 1.0).log10();
            assert!(
                below < exponent + 1e-12 && (weight as f64).log10() > exponent - 1e-12,
                "{shares} shares weigh {weight}"
            );
        }
    }

    #[test]
    fn the_range_of_io_weights_is_covered() {
        assert_eq!([10, 100, 500, 1000].map(io_weight), [1, 910, 4950, 10_000]);
    }

    #[test]
    fn swap_is_what_is_left_beyond_memory() {
        let cases =
            [(Some(100), 300, "200"), (Some(100), 100, "0"), (Some(100), -1, "max"), (Some(-1), 300, "300")];
        for (memory, both, swap) in cases {
            assert_eq!(swap_beyond_memory(memory, both), swap);
        }
    }
}
