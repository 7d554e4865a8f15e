//! The demo's resumed sessions: rustls, and openssl where that is installed.
//!
//! A client is believed only when it says itself that it resumed. Leaves what the signer says of it to `custody`.

use std::{path::Path, process::Command};

use keyhaven_xtask::{
    Error,
    client::{Client, Version},
    command,
    interrupt::Interrupt,
    say,
    site::{Folder, Running, SERVER_NAME},
};

/// Resumes a session with each client.
pub(super) fn check(
    running: &Running,
    folder: &Folder,
    ca: &[u8],
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let client = Client::new(Version::Tls13, SERVER_NAME, ca)?.remembering();
    client.get(running.address, "/")?;
    if !client.get(running.address, "/")?.resumed {
        return Err(failed("rustls was given no ticket, or it was refused"));
    }
    say::line("TLS 1.3  rustls: resumed with a ticket");
    interrupt.check()?;
    if command::find("openssl").is_none() {
        say::line("openssl is not installed: its resumption is left out");
        return Ok(());
    }
    let session = folder.log("openssl-session");
    with_openssl(running, folder, "-sess_out", &session)?;
    let said = with_openssl(running, folder, "-sess_in", &session)?;
    // It is a secret of the client, and has served.
    let _ = std::fs::remove_file(&session);
    let resumed = said
        .lines()
        .find(|line| line.starts_with("Reused, TLSv1.3"));
    let resumed = resumed.ok_or_else(|| failed("openssl did not resume its session"))?;
    say::line(format!("TLS 1.3  openssl: {resumed}"));
    Ok(())
}

/// One request; gives what `openssl s_client` says of it.
fn with_openssl(
    running: &Running,
    folder: &Folder,
    option: &str,
    session: &Path,
) -> Result<String, Error> {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &running.address.to_string()]);
    client.args(["-servername", SERVER_NAME, "-verify_return_error"]);
    client.args(["-tls1_3", "-ign_eof", option]).arg(session);
    client.arg("-CAfile").arg(folder.site_ca());
    let request = format!("GET / HTTP/1.1\r\nHost: {SERVER_NAME}\r\nConnection: close\r\n\r\n");
    let said = command::converse(&mut client, &request)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn failed(why: &str) -> Error {
    Error::Request {
        version: Version::Tls13.as_str(),
        why: why.to_owned(),
    }
}
