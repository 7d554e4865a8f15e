//! Runs the command line tools that prepare a token.
//!
//! Finds no tool by itself: `PATH` does. A failure carries the command's own words.

use std::path::Path;
use std::process::Command;

use crate::token::TokenError;

/// Where distributions put SoftHSM2.
const SOFTHSM_PLACES: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

/// The SoftHSM2 module of this machine.
pub(crate) fn softhsm_module() -> Result<&'static Path, TokenError> {
    SOFTHSM_PLACES
        .iter()
        .map(Path::new)
        .find(|place| place.exists())
        .ok_or(TokenError::NoModule)
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, TokenError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| TokenError::Start {
        program: program.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    Err(TokenError::Tool {
        program,
        status: output.status.to_string(),
        said,
    })
}
