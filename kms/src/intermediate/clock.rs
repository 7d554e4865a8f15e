//! The site's clocks: the one that leases run on, the boot that it belongs to, and the one on the wall.
//!
//! Reads them; what a difference means is the lease's business. Invariant: leases are measured by CLOCK_BOOTTIME, which
//! goes on while the machine sleeps and which nobody can set.

use std::{fmt, fs, io, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One look at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Since the machine started, sleep included.
    pub boottime: Duration,
    /// Since 1970, as the machine believes.
    pub wall: Duration,
    /// Which start of the machine `boottime` counts from.
    pub boot_id: [u8; 16],
}

/// Where time comes from. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Source>);

/// What a clock is read from.
pub trait Source: Send + Sync + 'static {
    /// Time since the machine started, sleep included, and since 1970.
    fn times(&self) -> (Duration, Duration);

    /// Which start of the machine it is.
    ///
    /// # Errors
    /// When the system does not tell: leases then end.
    fn boot_id(&self) -> io::Result<[u8; 16]>;
}

/// The machine's own.
struct System;

impl Clock {
    /// The machine's.
    pub fn system() -> Self {
        Self::new(System)
    }

    /// Another one, for tests.
    pub fn new(source: impl Source) -> Self {
        Self(Arc::new(source))
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// When the system does not tell which start this is.
    pub fn look(&self) -> io::Result<Now> {
        Ok(self.now(self.0.boot_id()?))
    }

    /// Looks at the times alone; which start it is was seen before, and does not change as often as keys are used.
    pub fn now(&self, boot_id: [u8; 16]) -> Now {
        let (boottime, wall) = self.0.times();
        Now {
            boottime,
            wall,
            boot_id,
        }
    }
}

impl Source for System {
    fn times(&self) -> (Duration, Duration) {
        (read(ClockId::Boottime), read(ClockId::Realtime))
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        boot_id()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Random, made by the kernel at each start; a UUID in text.
fn boot_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "boot_id is no UUID");
    let digits: Vec<u8> = text.trim().bytes().filter(|c| *c != b'-').collect();
    let digits = std::str::from_utf8(&digits).map_err(|_| bad())?;
    let number = u128::from_str_radix(digits, 16).map_err(|_| bad())?;
    Ok(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_has_one_boot_and_its_time_goes_on() {
        let clock = Clock::system();
        let (a, b) = (clock.look().unwrap(), clock.look().unwrap());
        assert_eq!(a.boot_id, b.boot_id);
        assert_ne!(a.boot_id, [0; 16]);
        assert!(b.boottime >= a.boottime && a.boottime > Duration::ZERO);
    }
}
