//! craton-hsm as a module that tests can load.
//!
//! Adds nothing: the module's functions are exported by the library itself, and this crate only gives it a place to be
//! built in, with its versions locked. It is built for tests alone, and nothing that we ship links it or loads it.

extern crate craton_hsm as _;
