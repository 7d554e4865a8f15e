//! The counting module from outside: where it is, what it saw, and the lies it is to tell.
//!
//! Leaves the counting to `keyhaven-pkcs11-shim`, a cdylib that Cargo builds beside the tests. A report is
//! exact: it is read from the very memory that the module counts in.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

use keyhaven_pkcs11_shim::counters::{COUNTERS, FILE_BYTES};
use keyhaven_pkcs11_shim::faults::Fault;
use keyhaven_pkcs11_shim::seen::ObjectSeen;
use keyhaven_pkcs11_shim::tapped::Tapped;
use keyhaven_pkcs11_shim::{Counter, FUNCTIONS};

/// A copy of the module with its folder.
#[derive(Clone, Debug)]
pub struct Shim {
    dir: PathBuf,
}

impl Shim {
    /// A copy of the module in `dir`, which stands before `real_module` and keeps its files there. Several of them
    /// in one process do not know of each other, but one process at a time should count in a folder. A copy that is
    /// there already is used as it is.
    ///
    /// # Panics
    /// When the module is not built or the folder cannot be written.
    pub fn of(dir: &Path, real_module: &Path) -> Shim {
        let copy = dir.join("shim.so");
        if !copy.exists() {
            let line = [real_module.as_os_str().as_bytes(), b"\n"].concat();
            let whole = |name: &str, make: &dyn Fn(&Path) -> io::Result<()>| {
                let path = dir.join(name);
                put(&path, make).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            };
            whole("shim.conf", &|path| fs::write(path, &line));
            whole("shim.so", &|path| fs::copy(built(), path).map(drop));
        }
        Shim {
            dir: dir.to_path_buf(),
        }
    }

    /// The module's file.
    pub fn module(&self) -> PathBuf {
        self.dir.join("shim.so")
    }

    /// What the process that loads the module needs in its environment, besides [`crate::TestToken::env`]: nothing
    /// any more.
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        Vec::new()
    }

    /// Listens from here on, in every process that loads the module after this. What was heard before is
    /// forgotten.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn tap(&self) {
        for name in ["objects", "tap"] {
            fs::write(self.dir.join(name), "").expect("the shim's folder can be written");
        }
    }

    /// Every byte string that passed since [`Shim::tap`], in the order of passing.
    pub fn tapped(&self) -> Vec<Tapped> {
        Tapped::decode_all(&fs::read(self.dir.join("tap")).unwrap_or_default())
    }

    /// Every object that was created since [`Shim::tap`], as it was right then.
    pub fn objects(&self) -> Vec<ObjectSeen> {
        let lines = fs::read_to_string(self.dir.join("objects")).unwrap_or_default();
        ObjectSeen::parse_all(&lines)
    }

    /// Injects these faults from the next call on, in place of those before; see [`keyhaven_pkcs11_shim`] for the
    /// language.
    ///
    /// # Panics
    /// When a line makes no sense or the files cannot be written.
    pub fn set_faults(&self, text: &str) {
        if let Err(line) = Fault::parse_all(text) {
            panic!("no such fault: {line}");
        }
        fs::write(self.dir.join("faults"), text).expect("the shim's folder can be written");
        let counters = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.dir.join("counters"))
            .expect("the counters can be opened");
        let generation = self.report().slot(Counter::FaultsGeneration as usize) + 1;
        counters
            .write_all_at(&generation.to_ne_bytes(), 0)
            .expect("the counters can be written");
    }

    /// Injects no fault any more.
    pub fn clear_faults(&self) {
        self.set_faults("");
    }

    /// What the module has seen up to now.
    pub fn report(&self) -> ShimReport {
        let mut bytes = fs::read(self.dir.join("counters")).unwrap_or_default();
        bytes.resize(FILE_BYTES, 0);
        let slots = bytes
            .chunks_exact(8)
            .map(|slot| u64::from_ne_bytes(slot.try_into().expect("8 bytes")));
        ShimReport {
            slots: slots.collect(),
        }
    }
}

/// What the module had seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimReport {
    slots: Vec<u64>,
}

impl ShimReport {
    /// Calls of one function.
    ///
    /// # Panics
    /// When no such function is counted.
    pub fn calls(&self, function: &str) -> u64 {
        let index = FUNCTIONS.iter().position(|name| *name == function);
        self.slot(COUNTERS + index.unwrap_or_else(|| panic!("{function} is not counted")))
    }

    /// Calls of all functions.
    pub fn total(&self) -> u64 {
        self.slots[COUNTERS..].iter().sum()
    }

    /// Session objects that lived.
    pub fn live(&self) -> u64 {
        self.slot(Counter::Live as usize)
    }

    /// The most session objects that lived at once.
    pub fn live_max(&self) -> u64 {
        self.slot(Counter::LiveMax as usize)
    }

    /// Private and secret keys whose value the module tried to read.
    pub fn examined(&self) -> u64 {
        self.slot(Counter::Examined as usize)
    }

    /// Those among them that could be read.
    pub fn readable(&self) -> u64 {
        self.slot(Counter::Readable as usize)
    }

    /// Calls by which the program itself asked for a key's value.
    pub fn value_asked(&self) -> u64 {
        self.slot(Counter::ValueAsked as usize)
    }

    /// Faults injected.
    pub fn faults(&self) -> u64 {
        self.slot(Counter::Faults as usize)
    }

    /// Each function called since `earlier`, with how often, as `C_Sign 3, C_SignInit 2`.
    pub fn calls_since(&self, earlier: &ShimReport) -> String {
        let mut text = String::new();
        for (index, name) in FUNCTIONS.iter().enumerate() {
            let calls = self.slot(COUNTERS + index) - earlier.slot(COUNTERS + index);
            if calls > 0 {
                let separator = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{separator}{name} {calls}");
            }
        }
        text
    }

    fn slot(&self, index: usize) -> u64 {
        self.slots[index]
    }
}

/// The module as it was built.
fn built() -> PathBuf {
    let binary = env::current_exe().expect("a running program has a path");
    let dir = binary.parent().unwrap_or(Path::new("/"));
    [dir.to_path_buf(), dir.join("deps"), dir.join("..")]
        .into_iter()
        .map(|place| place.join(FILE_NAME))
        .find(|place| place.exists())
        .unwrap_or_else(|| {
            panic!(
                "no {FILE_NAME} near {} (cargo build -p keyhaven-pkcs11-shim)",
                dir.display()
            )
        })
}

/// Makes a file that is whole from the first moment that it has its name, and leaves one that is there already:
/// it may be in use.
fn put(path: &Path, make: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}", process::id()));
    make(&partial)?;
    let named = fs::hard_link(&partial, path);
    fs::remove_file(&partial)?;
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        named => named,
    }
}

const FILE_NAME: &str = if cfg!(target_os = "macos") {
    "libkeyhaven_pkcs11_shim.dylib"
} else {
    "libkeyhaven_pkcs11_shim.so"
};

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::TestToken;

    fn tool(token: &TestToken, args: &[&str]) -> (bool, String) {
        let output = Command::new("pkcs11-tool")
            .envs(token.env())
            .arg("--module")
            .arg(token.shim().module())
            .args([
                "--token-label",
                token.label(),
                "--login",
                "--pin",
                token.pin(),
            ])
            .args(args)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    #[test]
    fn counts_examines_and_injects() {
        let token = TestToken::new("shim").unwrap();
        let shim = token.shim();
        let keygen = [
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "k",
            "--id",
            "01",
            "--sensitive",
        ];
        let (done, said) = tool(&token, &keygen);
        assert!(done, "{said}");
        let made = shim.report();
        assert_eq!(made.calls("C_GenerateKeyPair"), 1);
        assert_eq!(made.calls("C_Login"), 1);
        assert_eq!((made.examined(), made.readable()), (1, 0));
        assert_eq!(
            made.live(),
            0,
            "a key pair in the token is no session object"
        );

        shim.set_faults("C_SignInit error 0x30");
        let file = token.dir().join("data");
        std::fs::write(&file, [7; 32]).unwrap();
        let file = file.to_str().unwrap();
        let sign = [
            "--sign",
            "--mechanism",
            "ECDSA",
            "--label",
            "k",
            "--input-file",
            file,
            "--output-file",
            "/dev/null",
        ];
        let (done, said) = tool(&token, &sign);
        assert!(!done && said.contains("CKR_DEVICE_ERROR"), "{said}");
        assert_eq!(shim.report().faults(), 1);

        shim.clear_faults();
        let (done, said) = tool(&token, &sign);
        assert!(done, "{said}");
        assert!(shim.report().calls_since(&made).contains("C_SignInit 2"));
    }

    #[test]
    fn sees_a_value_that_can_be_read() {
        let token = TestToken::new("shim").unwrap();
        let (done, said) = tool(
            &token,
            &[
                "--keygen",
                "--key-type",
                "GENERIC:32",
                "--label",
                "k",
                "--extractable",
            ],
        );
        assert!(done, "{said}");
        let report = token.shim().report();
        assert_eq!((report.examined(), report.readable()), (1, 1));
    }
}
