//! What the measured programs take of the machine: processor time, memory, disk.
//!
//! Reads proc(5) and the sizes of files, and judges nothing. Invariant: the time of threads that have ended counts, too:
//! programs start a thread for a burst of records and let it go.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use keyhaven_xtask::{Error, daemon::Daemon};

use super::channel::failed;

/// The programs and their files.
pub(crate) struct Usage<'a> {
    pub(crate) central: &'a Daemon,
    pub(crate) site: &'a Daemon,
    /// Central's store, when it is a file.
    pub(crate) store: Option<PathBuf>,
    /// The site's replica.
    pub(crate) replica: PathBuf,
}

/// Processor time of one daemon.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// All of it.
    pub(crate) all: Duration,
    /// Of that, the threads that call the token's module: in it, with a software token.
    pub(crate) token: Duration,
}

/// Everybody's processor time until now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at: Instant,
    central: Work,
    site: Work,
    bench: Duration,
    machine: Duration,
}

/// Processor time between two readings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// By the clock on the wall.
    pub(crate) took: Duration,
    pub(crate) central: Work,
    pub(crate) site: Work,
    /// This process: simulated sites, clients.
    pub(crate) bench: Duration,
    /// Everybody else, the kernel's own threads among them.
    pub(crate) others: Duration,
}

/// Bytes in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) central_memory: u64,
    /// None when the store is no file.
    pub(crate) central_disk: Option<u64>,
    pub(crate) site_memory: u64,
    pub(crate) site_disk: u64,
}

impl Usage<'_> {
    /// Reads the processor times.
    pub(crate) fn read(&self) -> Result<Reading, Error> {
        Ok(Reading {
            at: Instant::now(),
            central: work_of(self.central)?,
            site: work_of(self.site)?,
            bench: process_time(&read("/proc/self/stat")?)?,
            machine: machine_time(&read("/proc/stat")?)?,
        })
    }

    /// What was spent since a reading.
    pub(crate) fn since(&self, earlier: &Reading) -> Result<Spent, Error> {
        let now = self.read()?;
        let less = |now: Work, earlier: Work| Work {
            all: now.all.saturating_sub(earlier.all),
            token: now.token.saturating_sub(earlier.token),
        };
        let central = less(now.central, earlier.central);
        let site = less(now.site, earlier.site);
        let bench = now.bench.saturating_sub(earlier.bench);
        let ours = central.all + site.all + bench;
        let machine = now.machine.saturating_sub(earlier.machine);
        Ok(Spent {
            took: now.at.saturating_duration_since(earlier.at),
            central,
            site,
            bench,
            others: machine.saturating_sub(ours),
        })
    }

    /// Reads memory and disk.
    pub(crate) fn space(&self) -> Result<Space, Error> {
        Ok(Space {
            central_memory: resident(self.central)?,
            central_disk: self.store.as_deref().map(size).transpose()?,
            site_memory: resident(self.site)?,
            site_disk: size(&self.replica)?,
        })
    }
}

/// The processors' name, as proc(5) has it.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split(':').nth(1));
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn work_of(daemon: &Daemon) -> Result<Work, Error> {
    let proc = format!("/proc/{}", daemon.pid());
    Ok(Work {
        all: process_time(&read(&format!("{proc}/stat"))?)?,
        token: token_time(Path::new(&proc)),
    })
}

/// utime and stime of /proc/PID/stat: of all threads, those that have ended among them.
fn process_time(stat: &str) -> Result<Duration, Error> {
    // The program's name may have spaces and brackets; behind its last bracket everything is a number.
    let numbers = stat.rsplit_once(") ").map(|(_, numbers)| numbers);
    let ticks = |nth| numbers?.split(' ').nth(nth)?.parse::<u64>().ok();
    match (ticks(UTIME), ticks(STIME)) {
        (Some(user), Some(system)) => Ok(time_of(user + system)),
        _ => Err(failed("/proc/PID/stat", "no processor time")),
    }
}

/// Everything but idle, waiting and stolen time of /proc/stat's first line.
fn machine_time(stat: &str) -> Result<Duration, Error> {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .map_while(|number| number.parse().ok())
        .collect();
    match ticks.as_slice() {
        [user, nice, system, _idle, _waiting, irq, softirq, ..] => {
            Ok(time_of(user + nice + system + irq + softirq))
        }
        _ => Err(failed("/proc/stat", "no processor time")),
    }
}

fn time_of(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(TICK_MS))
}

/// Of the threads that hold the token's sessions, which last as long as their daemon.
fn token_time(proc: &Path) -> Duration {
    let tasks = fs::read_dir(proc.join("task")).into_iter().flatten();
    let of = |task: &Path| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let times = fs::read_to_string(task.join("schedstat")).ok()?;
        let nanoseconds = times.split(' ').next()?.parse().ok()?;
        name.starts_with("token-")
            .then(|| Duration::from_nanos(nanoseconds))
    };
    // A thread that ends between two reads is none of them.
    tasks.flatten().filter_map(|task| of(&task.path())).sum()
}

/// VmRSS of /proc/PID/status, in bytes.
fn resident(daemon: &Daemon) -> Result<u64, Error> {
    let path = format!("/proc/{}/status", daemon.pid());
    let text = read(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| failed(&path, "no VmRSS"))
}

fn size(path: &Path) -> Result<u64, Error> {
    let data = fs::metadata(path).map_err(|error| failed(&path.display().to_string(), error))?;
    Ok(data.len())
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| failed(path, error))
}

/// Fields 14 and 15 of proc_pid_stat(5), from behind the name, which is the second.
const UTIME: usize = 11;
const STIME: usize = 12;
/// USER_HZ is 100 on every architecture that we build for.
const TICK_MS: u64 = 10;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn own_time() -> Duration {
        process_time(&read("/proc/self/stat").unwrap()).unwrap()
    }

    #[test]
    fn a_name_with_spaces_and_brackets_hides_no_time() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 10 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(process_time(stat).unwrap(), Duration::from_secs(3));
        assert!(process_time("7 (cut) S 1 7").is_err());
    }

    #[test]
    fn the_time_of_a_thread_that_ended_counts() {
        let before = own_time();
        let burn = move || {
            let began = Instant::now();
            let mut sum = 0_u64;
            while began.elapsed() < Duration::from_millis(100) || own_time() == before {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        };
        thread::spawn(burn).join().unwrap();
        assert!(own_time() > before);
    }

    #[test]
    fn idle_and_stolen_time_is_nobodys_work() {
        let stat = "cpu  100 20 30 9000 500 7 3 800 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(machine_time(stat).unwrap(), Duration::from_millis(1600));
        assert!(machine_time("cpu  1 2\n").is_err());
    }

    #[test]
    fn token_threads_are_told_from_others() {
        let burn = || {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            token_time(Path::new("/proc/self"))
        };
        let spawned = thread::Builder::new()
            .name("token-7".to_owned())
            .spawn(burn);
        assert!(spawned.unwrap().join().unwrap() > Duration::ZERO);
    }
}
