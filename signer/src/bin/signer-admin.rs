//! `signer-admin`: the operator's command line. Everything is in `keyhaven_signer::admin`.
//!
//! Here stands what must hold for the whole process. Invariant: memory is wiped when it is freed, and a crash leaves
//! no core file: keys and PINs pass through libraries that copy them.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit is always allowed; if a sandbox forbids even that, the work is still the operator's wish.
    let _ = setrlimit(Resource::Core, none);
    keyhaven_signer::admin::run(std::env::args_os())
}
