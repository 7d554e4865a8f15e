//! The demo's requests to its own site: rustls and curl, TLS 1.3 and TLS 1.2.
//!
//! Judges what came back and prints it. Never trusts a certificate that it did not verify.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use keyhaven_xtask::{
    Error,
    client::{Client, Version},
    command,
    interrupt::Interrupt,
    say,
    site::{Folder, Running, SERVER_NAME},
};

/// Whose answers are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// Ours, which answers every request with 200.
    BuiltIn,
    /// The user's, which may answer what it likes as long as it is HTTP.
    Users,
}

impl Backend {
    /// The status code, when this backend may have given it.
    fn judge(self, code: Option<u16>) -> Result<u16, &'static str> {
        match (self, code) {
            (Self::BuiltIn, Some(200)) => Ok(200),
            (Self::BuiltIn, _) => Err("and not 200, which is all that the built-in backend says"),
            (Self::Users, Some(code)) => Ok(code),
            (Self::Users, None) => Err("which is not the status line of HTTP/1.1"),
        }
    }
}

/// Makes one request for each TLS version with a client of our own, and with curl where that is installed. Gives the
/// CA's certificate.
pub(super) fn make(
    running: &Running,
    folder: &Folder,
    backend: Backend,
    interrupt: &Interrupt,
) -> Result<Vec<u8>, Error> {
    let ca = std::fs::read(folder.site_ca()).map_err(|source| Error::File {
        act: "read",
        path: folder.site_ca(),
        source,
    })?;
    for version in [Version::Tls13, Version::Tls12] {
        with_rustls(running, version, &ca, backend, interrupt)?;
    }
    if command::find("curl").is_none() {
        say::line("curl is not installed: its requests are left out");
        return Ok(ca);
    }
    for version in [Version::Tls13, Version::Tls12] {
        interrupt.check()?;
        with_curl(running, folder, version, backend)?;
    }
    Ok(ca)
}

/// What curl needs to fetch the site's first page.
pub(super) fn curl_arguments(running: &Running, folder: &Folder) -> Vec<String> {
    let address = running.address;
    vec![
        "--cacert".to_owned(),
        folder.site_ca().display().to_string(),
        "--resolve".to_owned(),
        format!("{SERVER_NAME}:{}:{}", address.port(), address.ip()),
        format!("https://{SERVER_NAME}:{}/", address.port()),
    ]
}

/// The words as a shell takes them, so that a folder with a space in its name can be copied from the screen.
pub(super) fn shell_line(words: &[String]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@".contains(&byte);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.bytes().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn with_rustls(
    running: &Running,
    version: Version,
    ca: &[u8],
    backend: Backend,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let client = Client::new(version, SERVER_NAME, ca)?;
    let answer = until_ready(interrupt, || client.get(running.address, "/"))?;
    let status = answer.text.lines().next().unwrap_or_default();
    backend
        .judge(status_code(status))
        .map_err(|fault| Error::Request {
            version: version.as_str(),
            why: format!("the backend answered {status:?}, {fault}"),
        })?;
    say::line(format!(
        "{}  certificate verified, {} with {}: {status}",
        version.as_str(),
        answer.suite,
        answer.group
    ));
    Ok(())
}

fn with_curl(
    running: &Running,
    folder: &Folder,
    version: Version,
    backend: Backend,
) -> Result<(), Error> {
    let flags = match version {
        Version::Tls13 => &["--tlsv1.3"][..],
        Version::Tls12 => &["--tlsv1.2", "--tls-max", "1.2"],
    };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20"]);
    curl.args(["--noproxy", "*", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}"]);
    let written = command::capture(curl.args(flags).args(curl_arguments(running, folder)))?;
    let written = String::from_utf8_lossy(&written);
    let code = backend
        .judge(three_digits(&written))
        .map_err(|fault| Error::Request {
            version: version.as_str(),
            why: format!("curl saw the status {written:?}, {fault}"),
        })?;
    say::line(format!("{}  curl: HTTP {code}", version.as_str()));
    Ok(())
}

/// The code in a status line (RFC 9112 section 4).
fn status_code(line: &str) -> Option<u16> {
    let (version, rest) = line.split_once(' ')?;
    if !["HTTP/1.0", "HTTP/1.1"].contains(&version) {
        return None;
    }
    // Some servers leave out the space when they give no reason.
    three_digits(rest.split_once(' ').map_or(rest, |(code, _reason)| code))
}

fn three_digits(code: &str) -> Option<u16> {
    let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    code.parse()
        .ok()
        .filter(|code| digits && (100..600).contains(code))
}

/// The proxy listens before its first connection to the signer stands; until then it refuses. Every other
/// failure is what it is, so the time is short.
fn until_ready<T>(
    interrupt: &Interrupt,
    mut attempt: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        interrupt.check()?;
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            other => return other,
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_backend_says_200_and_nothing_else() {
        let judge = |line| Backend::BuiltIn.judge(status_code(line));
        assert_eq!(judge("HTTP/1.1 200 OK"), Ok(200));
        for other in [
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 502 Bad Gateway",
            "HTTP/2 200",
            "",
        ] {
            assert!(judge(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_users_backend_says_what_it_likes_in_http() {
        let judge = |line| Backend::Users.judge(status_code(line));
        assert_eq!(judge("HTTP/1.1 404 Not Found"), Ok(404));
        assert_eq!(judge("HTTP/1.0 301 "), Ok(301));
        assert_eq!(judge("HTTP/1.1 500"), Ok(500));
        for other in [
            "HTTP/1.1 99 Low",
            "HTTP/1.1 600 High",
            "HTTP/1.1 +20 Sign",
            "HTTP/1.1 2000 Long",
            "HTTP/1.1",
            "220 ready",
            "",
        ] {
            assert!(judge(other).is_err(), "{other:?}");
        }
        assert!(Backend::Users.judge(three_digits("000")).is_err());
    }

    #[test]
    fn a_shell_takes_the_line_as_it_was_meant() {
        let words = ["printf", "<%s>", "/a b/it's", "x:1:127.0.0.1", "$HOME", ""];
        let line = shell_line(&words.map(str::to_owned));
        let said = command::capture(Command::new("sh").args(["-c", &line])).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&said),
            "</a b/it's><x:1:127.0.0.1><$HOME><>"
        );
    }
}
