//! One file for each verb.

pub(crate) mod bench;
pub(crate) mod boundaries;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod fuzz;
pub(crate) mod modules;
pub(crate) mod test;
