//! `cargo xtask modules`: the token modules that tests use and no distribution has.
//!
//! Names what is built; how is in the library. `test` does the same for those that it counts on.

use keyhaven_xtask::{
    Error,
    interrupt::Interrupt,
    modules::{self, Module},
    packages,
    say::step,
};

/// Builds what is not built yet; `modern` adds the one that takes minutes.
pub(crate) fn run(modern: bool, interrupt: &Interrupt) -> Result<(), Error> {
    step("what the modules need", || {
        packages::ensure(modules::NEEDS, interrupt)?;
        if modern {
            packages::ensure(modules::NEEDS_MODERN, interrupt)?;
        }
        Ok(())
    })?;
    step("modules", || build(modern, interrupt))
}

/// The same, where everything that it needs is there.
pub(super) fn build(modern: bool, interrupt: &Interrupt) -> Result<(), Error> {
    let modern = modern.then_some(&Module::KryopticModern);
    for module in Module::USUAL.iter().chain(modern) {
        module.build(interrupt)?;
    }
    Ok(())
}
