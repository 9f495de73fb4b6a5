//! Buckets of tokens: how many calls are let through, by a clock that whoever asks has looked at.

use std::time::Duration;

/// What a call takes out of a bucket: a microsecond's worth of one call in a second.
const CALL: u64 = 1_000_000;

/// A bucket that holds the calls of one second, and fills as fast. It begins full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    per_second: u32,
    filled_us: u64,
    level: u64,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, now: Duration) -> Self {
        let mut bucket = Self { per_second, filled_us: micros(now), level: 0 };
        bucket.level = bucket.capacity();
        bucket
    }

    pub(crate) fn per_second(&self) -> u32 {
        self.per_second
    }

    fn capacity(&self) -> u64 {
        u64::from(self.per_second) * CALL
    }

    /// Takes a call out, or says after how many milliseconds there is one.
    pub(crate) fn take(&mut self, now: Duration) -> Result<(), u64> {
        let now_us = micros(now).max(self.filled_us);
        let gained = (now_us - self.filled_us).saturating_mul(self.per_second.into());
        self.level = self.level.saturating_add(gained).min(self.capacity());
        self.filled_us = now_us;
        match self.level.checked_sub(CALL) {
            Some(left) => {
                self.level = left;
                Ok(())
            }
            None => {
                let lacks = CALL - self.level;
                Err(lacks.div_ceil(u64::from(self.per_second).max(1) * 1_000))
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn so_many_at_once_and_then_as_it_fills() {
        let mut bucket = Bucket::new(4, at(10));
        for _ in 0..4 {
            assert_eq!(bucket.take(at(10)), Ok(()));
        }
        assert_eq!(bucket.take(at(10)), Err(250));
        assert_eq!(bucket.take(at(259)), Err(1));
        assert_eq!(bucket.take(at(260)), Ok(()));
        assert_eq!(bucket.take(at(260)), Err(250));
        // It holds no more than those of a second.
        let later = (0..9).filter(|_| bucket.take(at(100_000)).is_ok()).count();
        assert_eq!(later, 4);
    }

    proptest! {
        /// Over any time, no more than the rate and one second's worth; and who comes back when he was told
        /// to is let through.
        #[test]
        fn no_more_than_the_rate(per_second in 1_u32..50, steps in prop::collection::vec(0_u64..90, 1..200)) {
            let mut bucket = Bucket::new(per_second, at(0));
            let (mut now, mut passed) = (0, 0);
            for step in steps {
                now += step;
                match bucket.take(at(now)) {
                    Ok(()) => passed += 1,
                    Err(after) => {
                        let (mut early, mut then) = (bucket, bucket);
                        prop_assert!(early.take(at(now + after - 1)).is_err());
                        prop_assert_eq!(then.take(at(now + after)), Ok(()));
                    }
                }
                prop_assert!(passed * 1000 <= u64::from(per_second) * (now + 1000));
            }
        }

        #[test]
        fn extremes_do_not_overflow(per_second: u32, from: u64, to: u64) {
            let mut bucket = Bucket::new(per_second, Duration::from_micros(from));
            let told = bucket.take(Duration::from_micros(to));
            prop_assert_eq!(told.is_ok(), per_second > 0);
        }
    }
}
