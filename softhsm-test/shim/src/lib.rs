//! A PKCS#11 module between the caller and a real one.
//!
//! It hands every call on to the module in `KEYHAVEN_SHIM_MODULE` (SoftHSM2 when unset), counts it, follows the
//! session objects that live, tries to read the value of every new key, and injects the faults that the file
//! `faults` in `KEYHAVEN_SHIM_DIR` asks for. What it counts stands in the file `counters` there, exact at every
//! moment. It knows nothing of TLS, and it never alters a call that no fault names.

pub mod counters;
mod examine;
pub mod faults;
mod objects;
mod state;
mod table;
mod wrappers;

pub use counters::{Counter, FUNCTIONS, Function};
