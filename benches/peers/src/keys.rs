//! Which key a request is for: a pure function of its number, so that every party sees the same ones.

use std::str::FromStr;

use palisade_benches::mixed;
use serde::{Deserialize, Serialize};

/// How skewed a Zipfian distribution is, as YCSB has it.
const THETA: f64 = 0.99;

/// How requests are spread over keys. Written as `uniform:1000` or `zipf:1000`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Keys {
    /// Each of so many as often as any other.
    Uniform(u64),
    /// The first of so many most, as in many real loads.
    Zipf(Zipf),
}

/// A Zipfian distribution (Gray et al., "Quickly generating billion-record synthetic databases").
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Zipf {
    keys: u64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(keys: u64) -> Self {
        let zeta_of = |n: u64| (1..=n).map(|at| (at as f64).powf(-THETA)).sum::<f64>();
        let zeta = zeta_of(keys);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - THETA)) / (1.0 - zeta_of(2) / zeta);
        Self { keys, zeta, eta }
    }

    fn at(&self, uniform: f64) -> u64 {
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1.min(self.keys - 1);
        }
        let share = (self.eta * uniform - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        ((self.keys as f64 * share) as u64).min(self.keys - 1)
    }
}

impl Keys {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Uniform(keys) | Self::Zipf(Zipf { keys, .. }) => *keys,
        }
    }

    /// Of the request of this number.
    pub(crate) fn key(&self, number: u64) -> u64 {
        let random = mixed(number.wrapping_add(1));
        match self {
            Self::Uniform(keys) => random % keys,
            Self::Zipf(zipf) => zipf.at((random >> 11) as f64 / (1_u64 << 53) as f64),
        }
    }
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').map(|(name, keys)| (name, keys.parse::<u64>()));
        match parts {
            Some(("uniform", Ok(keys))) if keys > 0 => Ok(Self::Uniform(keys)),
            Some(("zipf", Ok(keys))) if keys > 0 => Ok(Self::Zipf(Zipf::new(keys))),
            _ => Err(format!("{text}: a distribution is uniform:KEYS or zipf:KEYS")),
        }
    }
}

impl TryFrom<String> for Keys {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Keys> for String {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::Uniform(keys) => format!("uniform:{keys}"),
            Keys::Zipf(Zipf { keys, .. }) => format!("zipf:{keys}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> Vec<u32> {
        let keys: Keys = text.parse().unwrap();
        assert_eq!(String::from(keys), text);
        let mut counts = vec![0; keys.count() as usize];
        (0..100_000).for_each(|number| counts[keys.key(number) as usize] += 1);
        counts
    }

    #[test]
    fn every_key_is_as_frequent_as_its_distribution_says() {
        assert!(counted("uniform:100").iter().all(|count| (850..1150).contains(count)));
        let zipf = counted("zipf:100");
        // The harmonic number of 100 with this exponent is 5.3.
        assert!((18_000..20_000).contains(&zipf[0]), "{zipf:?}");
        assert!((8_500..10_500).contains(&zipf[1]), "{zipf:?}");
        assert!(zipf[0] > zipf[1] && zipf[1] > zipf[9] && zipf[9] > zipf[99], "{zipf:?}");
        assert!(zipf.iter().all(|count| *count > 0), "{zipf:?}");
        assert_eq!(counted("zipf:1"), [100_000]);
        assert_eq!(counted("zipf:2").iter().sum::<u32>(), 100_000);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for text in ["", "uniform", "uniform:0", "zipf:x", "other:3"] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
    }
}
