//! How often a client may do what is allowed and useless.
//!
//! Counts, and knows no message. Every count has an end: either it is reset by honest traffic, or it refills with
//! time, or it stays used up.

use std::time::{Duration, Instant};

use crate::flight::Refused;

/// Empty records in a row.
const EMPTY_RECORDS_MAX: u8 = 32;
/// Warning alerts over the whole connection.
const WARNINGS_MAX: u8 = 4;
/// KeyUpdates at once.
const KEY_UPDATES_BURST: u32 = 4;
/// Time after which one more KeyUpdate is allowed.
const KEY_UPDATE_EVERY: Duration = Duration::from_secs(10);

/// Counts of one connection.
#[derive(Debug, Default)]
pub struct Caps {
    empty_records: u8,
    warnings: u8,
}

impl Caps {
    /// Notes a record of application data.
    pub fn application_data(&mut self, len: usize) -> Result<(), Refused> {
        if len > 0 {
            self.empty_records = 0;
            return Ok(());
        }
        self.empty_records += 1;
        if self.empty_records > EMPTY_RECORDS_MAX {
            return Err(Refused::unexpected("too many empty records in a row"));
        }
        Ok(())
    }

    /// Notes a warning alert.
    pub fn warning(&mut self) -> Result<(), Refused> {
        self.warnings += 1;
        if self.warnings > WARNINGS_MAX {
            return Err(Refused::unexpected("too many warning alerts"));
        }
        Ok(())
    }
}

/// Allows KeyUpdates by time: each costs the signer a call (security rule T4).
#[derive(Debug)]
pub struct KeyUpdateBudget {
    left: u32,
    refilled: Instant,
}

impl KeyUpdateBudget {
    /// A full budget.
    pub fn new(now: Instant) -> Self {
        Self {
            left: KEY_UPDATES_BURST,
            refilled: now,
        }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Refused> {
        while self.left < KEY_UPDATES_BURST
            && now.saturating_duration_since(self.refilled) >= KEY_UPDATE_EVERY
        {
            self.left += 1;
            self.refilled += KEY_UPDATE_EVERY;
        }
        if self.left == KEY_UPDATES_BURST {
            self.refilled = now;
        }
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(Refused::unexpected("too many KeyUpdates"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_records_are_counted_in_a_row() {
        let mut caps = Caps::default();
        for _ in 0..3 {
            for _ in 0..EMPTY_RECORDS_MAX {
                assert_eq!(caps.application_data(0), Ok(()));
            }
            assert_eq!(caps.application_data(1), Ok(()));
        }
        for _ in 0..EMPTY_RECORDS_MAX {
            assert_eq!(caps.application_data(0), Ok(()));
        }
        assert!(caps.application_data(0).is_err());
    }

    #[test]
    fn warnings_are_counted_for_good() {
        let mut caps = Caps::default();
        for _ in 0..WARNINGS_MAX {
            assert_eq!(caps.warning(), Ok(()));
            assert_eq!(caps.application_data(1), Ok(()));
        }
        assert!(caps.warning().is_err());
    }

    #[test]
    fn key_updates_come_back_with_time_and_never_beyond_the_burst() {
        let start = Instant::now();
        let mut budget = KeyUpdateBudget::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..4 {
            assert_eq!(budget.take(at(0)), Ok(()));
        }
        assert!(budget.take(at(9)).is_err());
        assert_eq!(budget.take(at(10)), Ok(()));
        assert!(budget.take(at(11)).is_err());
        for _ in 0..4 {
            assert_eq!(budget.take(at(100_000)), Ok(()));
        }
        assert!(budget.take(at(100_000)).is_err());
    }
}
