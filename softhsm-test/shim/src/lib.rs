//! A PKCS#11 module between the caller and a real one, which counts, listens, examines and lies.
//!
//! It hands every call on to the real module, counts it, follows the session objects that live, tries to read
//! every new key, and does what the file `faults` asks for. It knows nothing of TLS, and it never alters a call
//! that no fault names. No lock is held while the real module works.
//!
//! # Where its files are
//!
//! The module works as a copy in a folder with a `shim.conf`, which holds the path of the real module in one line,
//! and keeps its files there. Several copies in one process are several modules, each before its own real one.
//!
//! * `counters`: numbers in shared memory, exact at every moment ([`counters`]).
//! * `faults`: what is to go wrong, one a line (below, and [`faults`]).
//! * `tap`: when it is there before the module starts, every byte string that the token gives is appended, and
//!   so is what goes into it as key material ([`tapped`]).
//! * `objects`: written beside `tap`, one line for each object that was created ([`seen`]).
//!
//! # The language of faults
//!
//! `FUNCTION ACTION [of WHAT] [after N] [times M]`. FUNCTION is a counted function, or `*` for `error` and `hang`.
//! WHAT is a mechanism (for `C_GetAttributeValue` an attribute), as a number or by its standard name. `after` lets
//! N calls pass that would have been hit, `times` ends it after M. The first line that fits a call is done.
//!
//! ```text
//! # Fails with CKR_DEVICE_ERROR from the third call on.
//! C_SignInit error 0x30 after 2
//! # A slow token: 200 ms for each HKDF, the result is right.
//! C_DeriveKey hang 200 of CKM_HKDF_DERIVE
//! # Lists a mechanism, says that it can be used, and fails at it with CKR_MECHANISM_INVALID.
//! C_GetMechanismList extra CKM_HKDF_DERIVE
//! C_GetMechanismInfo ok of CKM_HKDF_DERIVE
//! C_DeriveKey error 0x70 of CKM_HKDF_DERIVE
//! # Does not list one that it has.
//! C_GetMechanismList without CKM_AES_GCM
//! # Wrong results: one bit of what is given is wrong; a derivation is done from altered parameters.
//! C_Sign corrupt of CKM_ECDSA times 1
//! C_DigestFinal corrupt
//! C_DeriveKey corrupt of CKM_HKDF_DATA after 20
//! C_GetAttributeValue corrupt of CKA_EC_POINT
//! # Makes keys readable, and says of CKA_SENSITIVE and CKA_EXTRACTABLE what the caller asked for.
//! C_DeriveKey readable of CKM_ECDH1_DERIVE
//! # The same with the truth about the two flags.
//! C_GenerateKeyPair readable-shown
//! ```

pub mod counters;
pub mod faults;
pub mod names;
pub mod seen;
pub mod tapped;

mod alter;
mod creation;
mod examine;
mod home;
mod interfaces;
mod lies;
mod material;
mod objects;
mod state;
mod table;
mod tap;
mod wrappers;

pub use counters::{Counter, FUNCTIONS, Function};
