//! Builds the OpenSSL that the modern build of kryoptic is linked with: `keyhaven-test-openssl FOLDER`.
//!
//! Leaves `libcrypto.a` and `include` in `FOLDER/install`, side by side, as kryoptic wants to find them. It is built
//! for tests alone, and nothing that we ship links it.

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: keyhaven-test-openssl FOLDER");
        return ExitCode::from(64);
    };
    match build(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build(folder: &Path) -> Result<(), String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = openssl_src::Build::new()
        .target(&target)
        .host(&target)
        .out_dir(folder)
        .try_build()?;
    let library = built.lib_dir().join("libcrypto.a");
    fs::copy(&library, folder.join("install/libcrypto.a"))
        .map(drop)
        .map_err(|error| format!("cannot copy {}: {error}", library.display()))
}
