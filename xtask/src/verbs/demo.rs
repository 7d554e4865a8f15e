//! `cargo xtask demo`: a fresh machine to a working HTTPS site on a SoftHSM2 key.
//!
//! Tells a story and proves each sentence of it by a request. What it starts ends with it, on every path.

mod requests;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    thread,
    time::Duration,
};

use keyhaven_xtask::{
    Error, backend,
    cargo::Programs,
    command, daemon,
    interrupt::Interrupt,
    packages,
    say::{self, step},
    site::{self, Algorithm, Folder, Running, SERVER_NAME, SiteOptions, Token},
};

use requests::{Backend, curl_arguments, shell_line};

/// What the user chose.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) once: bool,
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) backend: Option<SocketAddr>,
    pub(crate) algorithm: Algorithm,
    pub(crate) release: bool,
}

/// Runs the demo.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> Result<(), Error> {
    check_free(options.listen)?;
    step("SoftHSM2", || {
        packages::ensure(&[packages::SOFTHSM], interrupt)
    })?;
    let programs = step("build signer, signer-admin and proxy", || {
        Programs::build(options.release, interrupt)
    })?;
    let folder = Folder::take(&options.dir)?;
    let token = step("token, key and certificates", || {
        prepare(options, &folder, &programs)
    })?;
    let mut running = step("start", || start(options, &folder, &programs, interrupt))?;
    let answering = match options.backend {
        None => Backend::BuiltIn,
        Some(_) => Backend::Users,
    };
    let level = step("requests", || {
        requests::make(&running, &folder, answering, interrupt)?;
        custody(&mut running, interrupt)
    })
    .inspect_err(|_| show_logs(&running))?;
    describe(&running, &folder, &token, &level);
    if !options.once {
        stay(&mut running, interrupt)?;
    }
    stop(running)?;
    if options.once {
        say::line("demo: ok");
    }
    Ok(())
}

fn prepare<'a>(
    options: &Options,
    folder: &'a Folder,
    programs: &'a Programs,
) -> Result<Token<'a>, Error> {
    let token = Token::create(folder, programs, options.algorithm)?;
    site::issue_identities(folder)?;
    site::issue_site_certificate(folder, &token.signing_request()?)?;
    Ok(token)
}

fn start(
    options: &Options,
    folder: &Folder,
    programs: &Programs,
    interrupt: &Interrupt,
) -> Result<Running, Error> {
    let backend = match options.backend {
        Some(backend) => backend,
        None => backend::start()?,
    };
    let signer = signer_address()?;
    site::write_configs(
        folder,
        &SiteOptions {
            signer,
            listen: options.listen,
            backend,
            custody_max: None,
        },
    )?;
    let running = Running::start(programs, folder, interrupt)?;
    say::line(format!("backend  {backend}"));
    say::line(format!(
        "signer   {signer}, process {}",
        running.signer.pid()
    ));
    say::line(format!(
        "proxy    {}, process {}",
        running.address,
        running.proxy.pid()
    ));
    Ok(running)
}

/// What the daemons said last, for a failure that is theirs.
fn show_logs(running: &Running) {
    for (name, daemon) in [("signer", &running.signer), ("proxy", &running.proxy)] {
        let tail = command::last_lines(&daemon.log_text(), 8);
        say::line(format!("---- {name}'s log, last lines ----\n{tail}"));
    }
}

fn describe(running: &Running, folder: &Folder, token: &Token<'_>, level: &str) {
    let address = running.address;
    say::line(format!("\ncustody: {level}"));
    for line in kept(level) {
        say::line(line);
    }
    say::line("\nTry it:");
    say::line(format!(
        "  curl {}",
        shell_line(&curl_arguments(running, folder))
    ));
    say::line(format!(
        "  openssl s_client -connect {address} -servername {SERVER_NAME} -CAfile {} -verify_return_error",
        shell_line(&[folder.site_ca().display().to_string()])
    ));
    say::line(format!(
        "  a browser that trusts the site CA: https://localhost:{}/",
        address.port()
    ));
    say::line("\nWhere things are:");
    let show = |path: PathBuf| path.display().to_string();
    for (what, place) in [
        ("token", token.uri()),
        ("key", site::key_uri()),
        ("SOFTHSM2_CONF", show(folder.softhsm_conf())),
        ("PIN file", show(folder.pin())),
        ("site CA", show(folder.site_ca())),
        ("certificate", show(folder.certificate())),
        ("private CA", show(folder.pki("ca.pem"))),
        ("signer.toml", show(folder.config("signer"))),
        ("proxy.toml", show(folder.config("proxy"))),
        ("signer's log", show(folder.log("signer"))),
        ("proxy's log", show(folder.log("proxy"))),
    ] {
        say::line(format!("  {what:<14} {place}"));
    }
}

/// What a level says about each secret, in the order in which a handshake makes them.
fn kept(level: &str) -> Vec<String> {
    let rows = [
        ("the site's private key", "signature"),
        (
            "the ephemeral private key and the ECDHE secret",
            "premaster",
        ),
        ("the first derivation from that secret", "premaster"),
        ("the handshake and master secrets", "master"),
        ("the traffic secrets and Finished keys", "schedule"),
    ];
    let order = ["signature", "premaster", "master", "schedule"];
    let rank = |name: &str| order.iter().position(|other| *other == name);
    let mut lines: Vec<_> = rows
        .iter()
        .map(|(secret, needed)| {
            let stays = rank(level) >= rank(needed);
            let place = if stays {
                "stayed in the token"
            } else {
                "passed through the signer's memory"
            };
            format!("  {secret:<48} {place}")
        })
        .collect();
    lines.push(format!(
        "  {:<48} all that the proxy got",
        "the AEAD keys and IVs of each session"
    ));
    lines.push("  SoftHSM2 is a software token: it protects against disclosure of the signer's memory, not against".to_owned());
    lines.push(
        "  code that runs as the signer's user. docs/custody.md says what each level is worth."
            .to_owned(),
    );
    lines
}

/// The lowest level that the handshakes so far had, as the signer logged it.
fn custody(running: &mut Running, interrupt: &Interrupt) -> Result<String, Error> {
    let levels = ["signature", "premaster", "master", "schedule"];
    running
        .signer
        .wait_for("finished a handshake", interrupt, |log| {
            daemon::fields(log)
                .filter_map(|line| daemon::find_text(&line, "custody"))
                .filter_map(|seen| levels.iter().position(|level| *level == seen))
                .min()
                .map(|lowest| levels[lowest].to_owned())
        })
}

fn stay(running: &mut Running, interrupt: &Interrupt) -> Result<(), Error> {
    say::line("\nCtrl-C stops everything.");
    while !interrupt.raised() {
        running.signer.check()?;
        running.proxy.check()?;
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn stop(running: Running) -> Result<(), Error> {
    let Running { signer, proxy, .. } = running;
    let proxy = proxy.stop(STOP_GRACE)?;
    let signer = signer.stop(STOP_GRACE)?;
    say::line(format!("\nstopped: proxy {proxy}, signer {signer}"));
    Ok(())
}

/// Finds out before anything is built that a port is taken.
fn check_free(address: SocketAddr) -> Result<(), Error> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|source| Error::Listen { address, source })
}

/// The documented port where it is free, another one where it is not.
fn signer_address() -> Result<SocketAddr, Error> {
    let usual = SocketAddr::from(([127, 0, 0, 1], 7443));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    TcpListener::bind(usual)
        .or_else(|_| TcpListener::bind(any))
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Listen {
            address: any,
            source,
        })
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longer than the daemons' own grace, which `site` sets to 3 and 5 seconds.
const STOP_GRACE: Duration = Duration::from_secs(12);
